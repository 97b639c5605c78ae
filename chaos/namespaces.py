"""Simulate machines and a switch with Linux network namespaces.

None of it has a name in the system: each namespace lives as long as a process in it does, and each of those processes
ends with the one that started it. So nothing is left behind, not even after kill -9, and a user who is not root gets
the same where the kernel gives out user namespaces. No packet leaves the switch: no machine has a way out.

A cut is a wrong entry in the sender's table of neighbours: what it sends goes to a hardware address that nobody has.
So each direction between two machines can be cut by itself, and a cut is silent: no reset, no error, no lost carrier.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from billet.core.errors import BilletError
from billet.demo.processes import ChildProcess, Processes

INSIDE = "BILLET_CHAOS_INSIDE"  # in the environment of the process that has entered a namespace of its own
NOWHERE = "02:00:00:00:ff:ff"  # a hardware address that no machine has
HOLD = "ip link set lo up && echo '{}' && exec sleep infinity"  # what keeps a machine's namespace alive
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

Pair = tuple[str, str]  # (sender, receiver)


def why_not() -> str:
    """Why namespaces are not to be had here; "" when they are."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    for program in ("ip", "unshare", "nsenter"):
        if not shutil.which(program):
            return f"the program {program} is missing; on Debian: apt-get install iproute2 util-linux"
    probe = "ip link add tap0 type veth peer name tap1 && ip link add br0 type bridge && mount -t tmpfs tmpfs /mnt"
    tried = subprocess.run([*_unshare(), "sh", "-c", probe], capture_output=True, text=True, check=False)
    return f"this kernel or container gives out no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def enter(module: str, arguments: Sequence[str]) -> None:
    """Go on in a network and a mount namespace of this process's own: runs the module anew, once.

    Raises BilletError when there are none to be had.
    """
    if os.environ.get(INSIDE):
        return
    reason = why_not()
    if reason:
        raise BilletError(reason)
    environment = {key: value for key, value in os.environ.items() if key not in PROXIES}
    command = [*_unshare(), sys.executable, "-m", module, *arguments]
    os.execvpe(command[0], command, {**environment, INSIDE: "1"})


def _unshare() -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", "--net", "--mount", *as_root, "--"]


class Network:
    """Some machines on one switch. The first is this process itself, so that its clients are on the network too."""

    def __init__(self, processes: Processes, machines: Mapping[str, str]) -> None:
        """`machines` maps names to IPv4 addresses, all within 10.99.0.0/24."""
        self._processes = processes
        self._addresses = dict(machines)
        self._macs = {name: _mac(address) for name, address in machines.items()}
        self._cuts: Counter[Pair] = Counter()
        self._holders: dict[str, int] = {}  # machine -> a process id in its namespace

    def build(self) -> None:
        """Make it, all machines reaching each other."""
        names = list(self._addresses)
        holders = {name: self._hold(name) for name in ["switch", *names[1:]]}
        for holder in holders.values():
            holder.ready()
        self._holders = {names[0]: os.getpid(), **{name: holder.pid for name, holder in holders.items()}}
        _ip(os.getpid(), ["link set lo up"])
        _ip(self._holders["switch"], ["link add br0 type bridge", "link set br0 up"])
        for n, name in enumerate(names):
            port = [
                f"link add port{n} type veth peer name eth0 address {self._macs[name]} netns {self._holders[name]}"
            ]
            _ip(self._holders["switch"], [*port, f"link set port{n} master br0 up"])
            addressed = [f"address add {self._addresses[name]}/24 dev eth0", "link set eth0 up"]
            _ip(self._holders[name], addressed + [self._neighbour(other) for other in names if other != name])

    def inside(self, machine: str, command: Sequence[str]) -> list[str]:
        """The command line that runs a command on a machine."""
        return ["nsenter", f"--net=/proc/{self._holders[machine]}/ns/net", "--", *command]

    async def cut(self, pairs: Iterable[Pair]) -> None:
        """From now on nothing of what these senders send to these receivers arrives."""
        changed = list(pairs)
        self._cuts.update(changed)
        await self._apply(changed)

    async def restore(self, pairs: Iterable[Pair]) -> None:
        """Take back one `cut`; what others have cut as well stays so."""
        changed = list(pairs)
        self._cuts.subtract(changed)
        await self._apply(changed)

    async def _apply(self, changed: Sequence[Pair]) -> None:
        by_sender: dict[str, list[str]] = {}
        for sender, receiver in changed:
            dead = self._cuts[sender, receiver] > 0
            by_sender.setdefault(sender, []).append(self._neighbour(receiver, NOWHERE if dead else ""))
        jobs = (asyncio.to_thread(_ip, self._holders[sender], lines) for sender, lines in by_sender.items())
        await asyncio.gather(*jobs)

    def _neighbour(self, machine: str, mac: str = "") -> str:
        mac = mac or self._macs[machine]
        return f"neighbour replace {self._addresses[machine]} lladdr {mac} dev eth0 nud permanent"

    def _hold(self, name: str) -> ChildProcess:
        return self._processes.start(f"machine-{name}", ["unshare", "--net", "--", "sh", "-c", HOLD])


def mount_disk(folder: Path, mib: int) -> None:
    """A disk of its own for one machine, in memory: so one can be full while the others are not."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)


def unmount_disk(folder: Path) -> None:
    """Let go of it and of all that is on it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _ip(pid: int, lines: Sequence[str]) -> None:
    """Run lines of `ip` in the namespace of a process."""
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BilletError(f"ip failed: {done.stderr.strip()}")


def _mac(address: str) -> str:
    """A hardware address for an IPv4 address; the first byte says that no vendor has given it out."""
    return ":".join(["02", "00", *(f"{int(part):02x}" for part in address.split("."))])
