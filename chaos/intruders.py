"""Faults of identity: agents that claim to be a host that they are not, each ended when the fault is healed.

Agents of other machines run on a spare machine of the network, with a boot id of its own. The true hosts' machines
share the boot id and the machine id of the machine that runs all this.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

from billet.demo.processes import ChildProcess
from billet.wire.pb import fleet_pb2 as pb
from chaos.cluster import ADDRESSES, HOSTS, LINK_TOKEN, LINKS, Cluster, python

BOOT_ID, MACHINE_ID = "/proc/sys/kernel/random/boot_id", "/etc/machine-id"
NOTICED_S = 30.0  # how long a fleet that is whole may take to notice a copied identity
REFUSED_S = 10.0  # how long to wait until an agent is refused; without a leader it is not
LISTED_S = 15.0  # within which a host that was let in is listed
REMOVED_S = 15.0  # within which a host without microVMs is removed
OPERATOR_S = 60.0  # how long the operator tries


@dataclass
class Intruder:
    """An agent that is not what it says. `host` is the true host; `restart`: its agent is restarted meanwhile."""

    name: str
    cluster: Cluster
    host: str
    restart: bool = False
    remedies: list[str] = field(default_factory=list)  # what the operator ran afterwards
    spare: str = ""  # the machine that it runs on, unless it runs on its host's
    folder: Path = Path()  # where it keeps everything
    _processes: list[ChildProcess] = field(default_factory=list)

    async def inject(self) -> None:
        """See Fault. Returns once the agent was refused, or could not be for want of a leader."""
        self._prepare()
        await asyncio.to_thread(self._start)
        await self.cluster.operator.refused(self._claimed, self._address, REFUSED_S)
        self._kill_the_true_agent()

    async def heal(self) -> None:
        """See Fault. The true agent is back for a moment before this one ends."""
        if self.restart:
            self.cluster.launch(f"{self.host}/agent")
            await self.cluster.operator.wait(self.host, lambda view: view.connected, REFUSED_S)
        await asyncio.to_thread(self._end)
        await self._clear_up()
        self.cluster.spares.append(self.spare)
        self.cluster.intruded.discard(self.host)

    def _prepare(self) -> None:
        self.cluster.intruded.add(self.host)
        self.spare = self.cluster.spares.pop(0)
        self.folder = Path(mkdtemp(prefix=f"{self.spare}-", dir=self.cluster.folder))

    @property
    def _claimed(self) -> str:
        """The name that it says hello with."""
        return self.host

    @property
    def _address(self) -> str:
        return ADDRESSES[self.spare]

    def _start(self) -> None:
        raise NotImplementedError

    async def _clear_up(self) -> None:
        """What an operator has to do once the agent is gone."""

    def _kill_the_true_agent(self) -> None:
        if self.restart:
            self.cluster.kill(f"{self.host}/agent")

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        self._processes.clear()

    def _run(self, machine: str, kind: str, command: Sequence[str], ids: Sequence[str] = ()) -> None:
        """Start a program on a machine; it sees other ids in place of those in the files `ids`."""
        inside = self.cluster.network.inside(machine, [*_with_ids(self.folder, ids), *command])
        self._processes.append(self.cluster.processes.start(f"{self.spare}-{kind}", inside))

    def _run_host(self, ids: Sequence[str]) -> None:
        """A flintlockd without microVMs on the spare machine, and an agent beside it with the host's name."""
        self._run(self.spare, "flintlockd", self.cluster.flintlockd_command(self.spare, self.folder), ids)
        self._run(self.spare, "agent", self.cluster.agent_command(self.host, self.folder), ids)


class Twin(Intruder):
    """Another machine was given the name of a living host."""

    def _start(self) -> None:
        self._run_host([BOOT_ID, MACHINE_ID])


class Clone(Intruder):
    """A machine whose disk is a copy of a living host's: it has the key and the machine id, and another boot id.

    A clone that speaks while its original is away is what a rebooted machine looks like. So this is injected into a
    fleet that is whole, and the other faults go on once the copy is noticed.
    """

    async def inject(self) -> None:
        """See Fault."""
        self._prepare()
        await self.cluster.operator.wait(self.host, lambda view: view.state == pb.READY, OPERATOR_S)
        await asyncio.to_thread(self._start)
        if await self.cluster.operator.wait(self.host, lambda view: view.duplicate, NOTICED_S):
            self._kill_the_true_agent()
        else:
            self.cluster.unnoticed.append(self.name)

    def _start(self) -> None:
        shutil.copytree(self.cluster.disk(self.host) / "agent", self.folder / "agent")
        self._run_host([BOOT_ID])

    async def _clear_up(self) -> None:
        """`rebind` keeps the agent that is connected, so the operator waits for it."""
        operator = self.cluster.operator
        if await operator.wait(self.host, lambda view: view.connected, OPERATOR_S) and await operator.change(
            self.host, pb.REBIND, OPERATOR_S
        ):
            self.remedies.append(f"billet host rebind {self.host}")


class Second(Intruder):
    """A second agent beside a living host's flintlockd, under another name."""

    @property
    def _claimed(self) -> str:
        return f"{self.host}-b"

    @property
    def _address(self) -> str:
        return ADDRESSES[self.host]

    def _start(self) -> None:
        self._run(self.host, "agent", self.cluster.agent_command(self._claimed, self.folder))

    async def _clear_up(self) -> None:
        """A name that was let in while the true agent was away stays in the fleet until it is removed.

        Its microVMs are those of the true host, whose agent is refused as long as it does not own them. The operator
        looks for a while: an answer that was given without a leader does not have the name yet.
        """
        operator, name = self.cluster.operator, self._claimed
        if not await operator.wait(name, lambda view: True, LISTED_S):
            return
        if await operator.change(name, pb.REMOVE, REMOVED_S):
            self.remedies.append(f"billet host remove {name}")
        elif await operator.change(name, pb.REMOVE, OPERATOR_S, self.host):
            self.remedies.append(f"billet host remove {name} --to {self.host}")


@dataclass
class LyingTerm(Intruder):
    """An agent that claims to have obeyed an absurdly high term."""

    term: int = 0

    @property
    def _claimed(self) -> str:
        return f"liar-{self.spare}"

    def _start(self) -> None:
        command = [*python("chaos.liar"), LINK_TOKEN, self._claimed, str(self.term), *LINKS]
        self._run(self.spare, "liar", command)


def twin(chance: random.Random, cluster: Cluster, heads: object) -> Intruder:
    """Another machine has the name of a host, whose agent is restarted meanwhile as often as not."""
    host, restart = _other_host(chance, cluster), chance.random() < 0.5
    return Twin(f"a twin of {host}{_restarting(restart)}", cluster, host, restart)


def clone(chance: random.Random, cluster: Cluster, heads: object) -> Intruder:
    """Another machine has the name and the key of a host, whose agent is restarted once the copy is noticed."""
    host, restart = _other_host(chance, cluster), chance.random() < 0.5
    return Clone(f"a clone of {host}{_restarting(restart)}", cluster, host, restart)


def second_agent(chance: random.Random, cluster: Cluster, heads: object) -> Intruder:
    """A flintlockd has two agents, the first of which is restarted meanwhile as often as not."""
    host, restart = _other_host(chance, cluster), chance.random() < 0.5
    return Second(f"a second agent beside the flintlockd of {host}{_restarting(restart)}", cluster, host, restart)


def lying_term(chance: random.Random, cluster: Cluster, heads: object) -> Intruder:
    """An agent claims a term that no store has issued."""
    term = chance.choice((10**6, 10**12, 1 << 61, (1 << 63) - 1, (1 << 64) - 1))
    return LyingTerm(f"an agent claims term {term}", cluster, "", term=term)


def _other_host(chance: random.Random, cluster: Cluster) -> str:
    """A host that no other agent claims to be."""
    return chance.choice([host for host in HOSTS if host not in cluster.intruded])


def _restarting(restart: bool) -> str:
    return ", and kill -9 its agent" if restart else ""


def _with_ids(folder: Path, files: Sequence[str]) -> list[str]:
    """The command that runs another one which reads new ids from these files."""
    if not files:
        return []
    lines = []
    for file in files:
        own = folder / Path(file).name
        if Path(file).exists():
            if not own.exists():
                own.write_text(f"{uuid4()}\n" if file == BOOT_ID else f"{uuid4().hex}\n")
            lines.append(f"mount --bind '{own}' {file}")
    return ["unshare", "--mount", "--", "sh", "-c", " && ".join([*lines, 'exec "$@"']), "sh"]
