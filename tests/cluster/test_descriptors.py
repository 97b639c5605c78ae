"""A server process that has no file descriptors left: a small log, and all is well once there are some again."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.clients import eventually
from tests.cluster.conftest import Start

SPARE = 5  # descriptors that the server may still open; each connection beyond them stays in the backlog
LOG_BYTES = 20_000  # of which a spinning server writes megabytes
REFUSED = "raise the limit of open files"


def highest(pid: int) -> int:
    return max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())


async def test_a_server_process_without_descriptors_recovers_and_its_log_stays_small(start: Start) -> None:
    """Broken on purpose (plain listening sockets): a traceback in each turn of the event loop."""
    cluster, clients = await start(1)
    server = cluster.server[0]
    first = len(server.log.read_bytes())
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    used = highest(server.pid) + 1
    with ExitStack() as held:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + SPARE, limits[1]))
        for _ in range(used + 2 * SPARE):  # those below the highest in use that are free, and more
            held.enter_context(socket.create_connection(("127.0.0.1", cluster.ports[0][2])))
        await eventually(lambda: REFUSED in server.log.read_text())
        await asyncio.to_thread(cluster.agent[0].kill)
        agent = cluster.agent[0] = cluster.launch_agent(0)
        for _ in range(200):  # many turns of the event loop
            await clients.hosts()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    await asyncio.to_thread(agent.ready, 60)
    await clients.create("later")
    written = server.log.read_bytes()[first:]
    assert len(written) < LOG_BYTES, written[:2000]
    assert written.decode().count(REFUSED) <= 2
