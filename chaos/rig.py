"""The test rig of a scenario: starts a fleet, clients and watchers, and always stops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import msgspec

from billet.demo.processes import Processes
from chaos.checkers import check
from chaos.cluster import ETCD, HOSTS, SERVERS, Cluster
from chaos.history import History, Kind
from chaos.load import Clients, sampling
from chaos.namespaces import unmount_disk
from chaos.watch import Watch

LONG_REST_S = 10.0  # a fleet that takes longer says what it has waited for

Say = Callable[[str], None]


@dataclass
class Rig:
    """One fleet, its clients, and the history that they write."""

    cluster: Cluster
    clients: Clients
    watch: Watch
    say: Say
    violations: dict[str, list[str]] = field(default_factory=dict)  # by checker, all that were found so far
    checks: int = 0  # how often all checkers were run
    _told: set[str] = field(default_factory=set)  # the history grows from round to round, and so would what it shows

    @property
    def history(self) -> History:
        """What was written down since the last `fresh`."""
        return self.clients.history

    def fresh(self) -> None:
        """Begin a new history, of a fleet that is empty."""
        history = self.clients.history
        history.ops.clear()
        history.samples.clear()
        history.looks.clear()

    async def verdict(self) -> int:
        """Wait until all has come to rest, check every promise, say what is broken; the number of violations."""
        fallen = [part.name for part in self.cluster.fallen()]
        for name in fallen:
            self.cluster.launch(name)
        begun_s = time.monotonic()
        unrest = await self.watch.rest()
        if time.monotonic() - begun_s > LONG_REST_S:
            self.say(f"at rest after {time.monotonic() - begun_s:.1f} s; waited last for: {self.watch.waited_for}")
        uids = {op.uid for op in self.history.of(Kind.CREATE) if op.ok}
        uids -= {op.uid for op in self.history.of(Kind.DELETE)}
        try:
            world = await self.watch.world(sorted(uids), unrest)
        except (grpc.aio.AioRpcError, OSError) as error:
            found = {"all_is_well_again": [f"the fleet cannot be looked at: {unrest}; {error!r}"]}
        else:
            world.fallen = fallen
            found = await asyncio.to_thread(check, self.history, world)
        found = {name: [one for one in told if one not in self._told] for name, told in found.items()}
        self.checks += 1
        if any(found.values()):
            await asyncio.to_thread(self._write_down)
        for name, violations in found.items():
            self.violations.setdefault(name, []).extend(violations)
            self._told.update(violations)
            for violation in violations[:10]:
                self.say(f"[bold red]VIOLATION[/] {name}: {violation}")
        return sum(map(len, found.values()))

    def _write_down(self) -> None:
        """Keep the history beside the logs, one call in each line."""
        lines = (msgspec.json.encode(op) for op in list(self.history.ops))
        (self.cluster.folder / "history.jsonl").write_bytes(b"\n".join(lines))


@asynccontextmanager
async def rig(folder: Path, say: Say, **settings: float) -> AsyncIterator[Rig]:
    """A running fleet; `settings` are those of Cluster."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))  # what stands still holds a thread
    with Processes(folder) as processes:
        cluster = Cluster(folder, processes, **settings)  # type: ignore[arg-type]
        await asyncio.to_thread(cluster.start)
        clients = Clients(SERVERS, History())
        watch = Watch(cluster, clients)
        looking = asyncio.create_task(watch.keep_looking())
        try:
            async with sampling(clients.history):
                yield Rig(cluster, clients, watch, say)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await watch.close()
            await cluster.operator.close()
            await clients.close()
            for part in cluster.parts.values():
                cluster.resume(part.name)  # SIGTERM does not reach what stands still
    for machine in (*ETCD, *SERVERS, *HOSTS):
        unmount_disk(cluster.disk(machine))
