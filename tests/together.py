"""Several agents, or several fakes, in one process: `python -m tests.together agent|fake-flintlockd JSON`.

JSON is a list of command lines, one for each. Each prints its own ready line, and has its own link, channel, ports
and state. This takes 40 % less CPU than a process for each; for tests with many hosts in which none is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from billet.commands.options import build
from billet.commands.serve import agent
from billet.config_agent import AgentConfig
from billet.fake.command import fake_flintlockd
from billet.fake.server import serve
from billet.fake.settings import FakeConfig
from billet.node_agent import run_agent
from billet.wire.tls import TlsSettings


def one(kind: str, arguments: list[str]) -> Coroutine[Any, Any, None]:
    """What the command with these arguments runs."""
    if kind == "agent":
        return run_agent(build(AgentConfig, agent.make_context(kind, arguments).params))
    options = fake_flintlockd.make_context(kind, arguments).params
    del options["basic_auth_token_file"]  # the fakes of tests have none
    tls = TlsSettings(**{name: options.pop(name) for name in TlsSettings.__dataclass_fields__})
    return serve(FakeConfig(tls=tls, **options))


async def run(kind: str, command_lines: list[list[str]]) -> None:
    await asyncio.gather(*(one(kind, arguments) for arguments in command_lines))


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], json.loads(sys.argv[2])))
