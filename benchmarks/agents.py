"""Many agents in one process, each with a link and a channel of its own. `python -m benchmarks.agents ORDER.json`.

They are put together as `billet agent` is, with its default settings. Only the machine that they measure is the
same for all; and each looks at its list of sockets, which has thousands of lines here, only once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec
import uvloop

from billet.accepting import raise_descriptor_limit
from billet.adapters import listener
from billet.adapters.identity import KeyIdentity
from billet.config_agent import AgentConfig
from billet.logs import log_to_stderr
from billet.node_agent import build_agent

NEVER_AGAIN_S = 1e9


class Order(msgspec.Struct, frozen=True):
    """One agent for each flintlockd, by its host's number; all hosts are alike."""

    flintlocks: dict[int, str]
    link: str
    link_token: str
    link_ca: str  # "" = no TLS
    vcpu: int
    memory_mib: int
    max_vms: int


async def serve(order: Order) -> None:
    """Run all of them; say so once every one is let in."""
    log_to_stderr()
    raise_descriptor_limit()
    listener.LOOK_EVERY_S = NEVER_AGAIN_S
    built = [build_agent(_config(order, n, at), _identity(n)) for n, at in order.flintlocks.items()]
    async with asyncio.TaskGroup() as group:
        for agent, dialler, *_ in built:
            group.create_task(agent.run())
            group.create_task(dialler.run())
        for agent, *_ in built:
            await agent.joined.wait()
        print(json.dumps({"agents": len(built)}), flush=True)


def _identity(n: int) -> KeyIdentity:
    return KeyIdentity.of_seed(n.to_bytes(32), "", "")


def _config(order: Order, n: int, flintlock: str) -> AgentConfig:
    return AgentConfig(
        id=f"host-{n}",
        servers=(order.link,),
        link_token=order.link_token,
        link_ca=order.link_ca,
        link_insecure=not order.link_ca,
        flintlock=flintlock,
        provider="firecracker",
        state_dir=".",
        containerd="",
        vcpu=order.vcpu,
        memory_mib=order.memory_mib,
        max_vms=order.max_vms,
    )


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)))
