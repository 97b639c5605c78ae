"""Unauthenticated load on all ports at once, while a client creates.

    python -m tests.cluster.strangers [SECONDS A TURN] [TURNS]

Strangers with neither a token nor a certificate flood the leader's gRPC port, a zone's own port, the HTTP port and
the agents' link with connections, garbage, slow beginnings, large bodies and idle connections (500 in all). They run
with a low priority, since in life their CPU would be another machine's: their handshakes cost them more than the
leader. Calm and load take turns, because other programs on this machine count too. Printed: how much longer the
client's creates took, what the leader's memory and CPU did, and its terms.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from billet.demo.processes import free_port
from billet.grpc.interface import Channel
from billet.grpc.status import RpcError
from billet.wire import flintlock as wire
from billet.wire.auth import basic_header
from tests.cluster.clients import eventually
from tests.cluster.rotation import connect, create, shown
from tests.cluster.secured import SecuredCluster

AT_ONCE = 4  # creates on one connection
SOURCES = 5  # addresses from which strangers come, each a process
GROUP_NICE = "10"  # with 19 they would get no CPU at all on a busy machine, and attack nobody
OPEN_FILES = 2048
LOOK_S = 0.2
MIB = 1 << 20


@dataclass
class Turn:
    """What one turn, or all turns of a kind, has measured."""

    took_s: list[float] = field(default_factory=list)
    new_connection_s: list[float] = field(default_factory=list)  # creates with a connection of their own
    errors: Counter[str] = field(default_factory=Counter)
    most_bytes: int = 0
    most_files: int = 0
    cpu_s: float = 0.0  # that the leader used
    lasted_s: float = 0.0

    def add(self, other: Turn) -> None:
        self.took_s += other.took_s
        self.new_connection_s += other.new_connection_s
        self.errors += other.errors
        self.cpu_s, self.lasted_s = self.cpu_s + other.cpu_s, self.lasted_s + other.lasted_s
        self.most_bytes = max(self.most_bytes, other.most_bytes)
        self.most_files = max(self.most_files, other.most_files)


def percentile_ms(took_s: list[float], share: float) -> float:
    ordered = sorted(took_s) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


class Rehearsal:
    """A cluster, and the client that measures it."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.zone_port = free_port()
        flags = ("--endpoint", f"zone=z,listen=127.0.0.1:{self.zone_port}")
        self.cluster = SecuredCluster(folder, 1, hosts, certificates=False, server_flags=flags)
        self._number = 0

    async def start(self) -> None:
        await self.cluster.start()
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        channel = connect(self.cluster, 0)

        async def works() -> bool:
            turn = Turn()
            await self._create(channel, turn.took_s, turn)
            return not turn.errors

        await eventually(works)
        await channel.close()

    @property
    def pid(self) -> int:
        return self.cluster.servers[0].pid

    def bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208  # only their number

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terms(self) -> int:
        return len([line for line in self.cluster.logged("leading") if "term=" in line])

    async def turn(self, lasts_s: float) -> Turn:
        """Create and delete for so long, and watch the leader."""
        turn, until_s = Turn(), time.monotonic() + lasts_s
        channel = connect(self.cluster, 0)

        async def watch() -> None:
            while time.monotonic() < until_s:
                turn.most_bytes, turn.most_files = (
                    max(turn.most_bytes, self.bytes()),
                    max(turn.most_files, self.files()),
                )
                await asyncio.sleep(LOOK_S)

        async def same_connection() -> None:
            while time.monotonic() < until_s:
                await self._create(channel, turn.took_s, turn)

        async def own_connections() -> None:
            while time.monotonic() < until_s:
                own = connect(self.cluster, 0)
                await self._create(own, turn.new_connection_s, turn)
                await own.close()

        began_s, cpu_s = time.monotonic(), self.cpu_s()
        await asyncio.gather(watch(), own_connections(), *(same_connection() for _ in range(AT_ONCE)))
        turn.lasted_s, turn.cpu_s = time.monotonic() - began_s, self.cpu_s() - cpu_s
        await channel.close()
        return turn

    async def _create(self, channel: Channel, took_s: list[float], turn: Turn) -> None:
        self._number += 1
        began_s, token = time.monotonic(), shown(self.cluster)
        try:
            uid = await create(channel, f"vm-{self._number}", token)
            took_s.append(time.monotonic() - began_s)
            metadata = (("authorization", basic_header(token)),)
            await channel.unary(wire.DELETE, wire.with_uid(uid), 60.0, metadata)
        except RpcError as error:
            turn.errors[f"{error.code}: {error.text}"] += 1

    @contextmanager
    def strangers(self) -> Iterator[None]:
        """They are there for as long as this lasts."""
        grpc, http, link = self.cluster.ports[0]
        ports = {"grpc": grpc, "http": http, "link": link, "zone": self.zone_port}
        cas = self.cluster.folder / "cas.crt"
        cas.write_text(Path(self.cluster.legs["api"].ca).read_text() + Path(self.cluster.legs["link"].ca).read_text())
        command = ["nice", "-n", "19", sys.executable, "-m", "tests.cluster.attackers", json.dumps(ports), str(cas)]
        running = [
            subprocess.Popen([*command, f"127.0.0.{n + 2}"], stderr=subprocess.DEVNULL, start_new_session=True)
            for n in range(SOURCES)
        ]
        for process in running:  # where each session has a share of its own, nice counts within the session only
            with suppress(OSError):
                Path(f"/proc/{process.pid}/autogroup").write_text(GROUP_NICE)
        try:
            yield
        finally:
            for process in running:
                process.kill()
                process.wait()


@dataclass
class Found:
    """What all turns have measured."""

    calm: Turn
    loaded: Turn
    after: Turn
    first_bytes: int
    first_files: int
    last_files: int
    terms: int

    def ratio(self) -> float:
        return percentile_ms(self.loaded.took_s, 0.99) / percentile_ms(self.calm.took_s, 0.99)

    def grown_mib(self) -> float:
        return (max(self.loaded.most_bytes, self.after.most_bytes) - self.first_bytes) / MIB


async def rehearse(folder: Path, turn_s: float, turns: int, hosts: int = 3) -> Found:
    """Calm and load in turns, then calm once more."""
    rehearsal = Rehearsal(folder, hosts)
    calm, loaded = Turn(), Turn()
    try:
        await rehearsal.start()
        await rehearsal.turn(min(turn_s, 3.0))  # warm
        first_bytes, first_files = rehearsal.bytes(), rehearsal.files()
        for _ in range(turns):
            calm.add(await rehearsal.turn(turn_s))
            with rehearsal.strangers():
                await eventually(lambda: rehearsal.files() > first_files + 100)
                loaded.add(await rehearsal.turn(turn_s))
            await eventually(lambda: rehearsal.files() <= first_files + 2)
        after = await rehearsal.turn(turn_s)
        return Found(calm, loaded, after, first_bytes, first_files, rehearsal.files(), rehearsal.terms())
    finally:
        rehearsal.cluster.stop()


def timing(took_s: list[float]) -> str:
    p50, p99 = (percentile_ms(took_s, share) for share in (0.5, 0.99))
    return f"{len(took_s)} creates, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def report(found: Found) -> None:
    for name, turn in (("calm", found.calm), ("loaded", found.loaded), ("after", found.after)):
        each = timing(turn.new_connection_s)
        print(f"{name:7} {timing(turn.took_s)}; with a connection each {each}; {turn.errors.total()} errors; "
              f"the leader: {turn.cpu_s / turn.lasted_s:.0%} of a core, at most {turn.most_bytes // MIB} MiB, "
              f"{turn.most_files} files")  # fmt: skip
        for text, count in turn.errors.items():
            print(f"        {count} x {text}")
    connecting = percentile_ms(found.loaded.new_connection_s, 0.99) / percentile_ms(found.calm.new_connection_s, 0.99)
    print(f"p99 loaded / calm: {found.ratio():.1f} (with a connection each: {connecting:.1f})")
    print(
        f"memory: grew by at most {found.grown_mib():.0f} MiB; terms: {found.terms}; "
        f"open files: {found.first_files} before, {found.last_files} after; load average {os.getloadavg()[0]:.1f}"
    )


def main(arguments: list[str]) -> int:
    turn_s, turns = float((*arguments, 15)[0]), int((*arguments[1:], 3)[0])
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(rehearse(Path(folder), turn_s, turns))
    report(found)
    return 0 if found.ratio() < 5 and found.grown_mib() < 200 and found.terms == 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
