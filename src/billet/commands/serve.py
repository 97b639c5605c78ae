"""`billet server` and `billet agent`: read the settings, then run until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import click

from billet.commands.options import SectionedCommand, build, config_options
from billet.config import ServerConfig
from billet.config_agent import AgentConfig
from billet.core.errors import BilletError, ConfigError


@click.command(cls=SectionedCommand)
@config_options(ServerConfig)
def server(**values: Any) -> None:
    """Serve Flintlock's API for the whole fleet.

    Run one server with SQLite, or 3 or 5 servers with etcd. Every server accepts every request; one of them leads.
    On SIGTERM a server finishes the calls in flight; on SIGHUP it reads its certificates and secret files again.
    Each option is also an environment variable, for example BILLET_SERVER_GRPC_ENDPOINT.
    """
    _survive_hangup()
    config = build(ServerConfig, values)
    from billet.node import run_server  # imported late: --help and invalid settings do not need it

    _run(run_server(config), config.log_format)


@click.command(cls=SectionedCommand)
@config_options(AgentConfig)
def agent(**values: Any) -> None:
    """Report and bid for one host. Runs beside its flintlockd.

    The agent connects to the servers and listens on no port. A host offers (capacity - reserve) x ratio. On SIGHUP
    the agent reads its certificates and secret files again. Each option is also an environment variable, for example
    BILLET_AGENT_LINK_TOKEN.
    """
    _survive_hangup()
    config = build(AgentConfig, values)
    from billet.node_agent import run_agent

    _run(run_agent(config), config.log_format)


def _survive_hangup() -> None:
    """SIGHUP ends no server and no agent, not even while it starts. process.until_stopped handles it later."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _run(main: Coroutine[Any, Any, None], log_format: str) -> None:
    """Run the process. With JSON logs, the error that ends it is a log line too, and not a sentence in red."""
    import uvloop

    from billet.process import shorten_collections

    shorten_collections()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except BilletError as error:
        if log_format != "json":
            raise
        import structlog

        structlog.get_logger().error("process ended", error=error.text)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
