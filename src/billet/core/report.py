"""What a host reports to the leader: its measurements, and the microVMs that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from billet.core.model import ZERO, Facts, Image, Observed, Resources
from billet.core.pressure import NO_STALLS, Stalls


class MachineFacts(NamedTuple):
    """Facts about a machine. None = unavailable; `lacks` says which facts these are, and why."""

    cpu_model: str | None = None
    kvm: bool | None = None  # /dev/kvm can be opened
    providers: tuple[str, ...] | None = None  # those whose programs are installed
    lacks: tuple[str, ...] = ()


NOTHING_KNOWN = MachineFacts()


class HostImages(NamedTuple):
    """The images of a host: those that it has unpacked, and those that are coming, for microVMs that wait."""

    unpacked: frozenset[Image]
    coming: frozenset[Image]  # without those that are unpacked

    @property
    def at_hand(self) -> frozenset[Image]:
        """Those that a new microVM would not have to pull."""
        return self.unpacked | self.coming


NO_IMAGES = HostImages(frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class Report:
    """A host's periodic report of its measurements. Shares are 0 to 1, of the whole machine. None = unavailable."""

    facts: Facts
    cpu_share: float
    memory_used_mib: int
    disk_free_mib: int
    vms: int  # all microVMs on the host, created through Billet or not
    failed: int
    daemon_ok: bool
    interval_s: float
    taken: Resources = ZERO  # by the host's count, creates in hand included
    stalls: Stalls = NO_STALLS
    memory_free_mib: int | None = None
    volumes_free_mib: int | None = None
    images: int | None = None  # unpacked images; None if containerd cannot be asked
    machine: MachineFacts = NOTHING_KNOWN
    flintlockd: str = ""  # identifies the socket of the host's flintlockd, "" = unknown
    at_hand: HostImages | None = None  # None = as last told


class InventoryUpdate(NamedTuple):
    """The microVMs of a host: all of them if `full`, else the changes since the last update."""

    full: bool
    seen: list[Observed]
    gone: list[str]  # uids
    creating: list[str]  # tokens of creates that the agent has in hand
    deleted: Sequence[Observed] = ()  # by a leader's order: all that are remembered if `full`, else those of `gone`
