"""`billet server` and `billet agent`: read the settings, then run until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import click

from billet.commands.options import Sections, build, config_options
from billet.config import ServerConfig
from billet.config_agent import AgentConfig


@click.command(cls=Sections)
@config_options(ServerConfig)
def server(**values: Any) -> None:
    """Serve Flintlock's API for the whole fleet.

    Run one server with SQLite, or 3 or 5 with etcd. Each of them takes any request; one of them leads. SIGTERM lets
    what is in flight finish. Every option can be set in the environment too: BILLET_SERVER_GRPC_ENDPOINT and so on.
    """
    config = build(ServerConfig, values)
    from billet.node import run_server  # late: --help and wrong settings need none of it

    _run(run_server(config))


@click.command(cls=Sections)
@config_options(AgentConfig)
def agent(**values: Any) -> None:
    """Report and bid for one host, beside its flintlockd.

    The agent dials the servers and needs no port of its own. What a host offers is (measured - reserve) x ratio.
    Every option can be set in the environment too: BILLET_AGENT_LINK_TOKEN and so on.
    """
    config = build(AgentConfig, values)
    from billet.node_agent import run_agent

    _run(run_agent(config))


def _run(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
