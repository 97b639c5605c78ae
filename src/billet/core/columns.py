"""Every host in columns, one row each, so that an auction sees the whole fleet at once.

A row has what the ledger counts on the host, and what the host said last of itself (`hear`): together its standing
bid, with which it is compared where it was not asked, or has not answered. A change costs O(1); a question is a few
operations on whole columns, about a microsecond each for a thousand hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from billet.core.groups import Counted
from billet.core.memory import remember
from billet.core.model import ZERO, Bid, Facts, Host, Image, Reason, Refusal, Resources
from billet.core.report import NO_IMAGES, HostImages, Report
from billet.core.row_values import Column as Column
from billet.core.row_values import Crowds, Texts
from billet.core.row_values import Mask as Mask
from billet.core.scarcity import LabelCounts, Labels
from billet.core.scoring import UNKNOWN_BOOT_S, UNKNOWN_PULL_S

T = TypeVar("T")

FIRST_ROWS = 64  # of a new fleet; doubled when they are used up
MISSED = 2.5  # report intervals without a word after which a host has no standing bid: it may be dead
REMEMBERED = 100  # masks of labels, and demands
NEVER_S = -np.inf
CANNOT_BID = frozenset({Reason.DAEMON_AWAY, Reason.STOPPING})


class Standing(NamedTuple):
    """What a host said last: its facts, and what it counted as taken. Times are monotonic."""

    facts: Facts
    taken: Resources
    said_s: float
    fresh_s: float  # how old it may become: the host may be dead


NOTHING = Standing(Facts(), ZERO, NEVER_S, 0.0)


class Columns:
    """The rows of a fleet. `ids` has a host for each row, "" where there is none.

    The arrays have one column per row of the fleet: `allocatable` and `taken` four lines (vCPU, memory, disk, slots),
    `facts` those of FACTS. Nothing outside of this class writes to them.
    """

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.ids: list[str] = []
        self.version = 0  # one more whenever a row gets another host
        self.moves = 0  # one more whenever the ledger counts something else on a host
        self.allocatable: Column = np.zeros((4, 0))
        self.taken: Column = np.zeros((4, 0))
        self.inverse: Column = np.zeros((4, 0))  # 1 / allocatable, 0 where that is 0
        self.facts: Column = np.zeros((len(FACTS), 0))
        self.open: Mask = np.zeros(0, bool)  # neither cordoned nor fenced
        self.fresh_until_s: Column = np.zeros(0)  # until when a standing bid holds
        self._zones = Texts()
        self._providers = Texts()
        self.crowds = Crowds(self.rows, self._zones)
        self._of_demand: dict[Resources, Any] = {}  # a cache
        self.labels = LabelCounts()
        self._scarce: dict[Labels, Column] = {}  # a cache
        self._labelled: dict[tuple[str, str], Mask] = {}  # label and value -> the hosts that have it; a cache
        self._hosts: dict[str, Host] = {}
        self._standing: dict[str, Standing] = {}
        self._images: dict[str, HostImages] = {}  # of the hosts that tell them
        self._at_hand: dict[Image, set[int]] = {}  # the rows of hosts that would not have to pull it
        self._missing: dict[frozenset[Image], Column] = {}  # a cache
        self._tells_images: Mask = np.zeros(0, bool)
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def put(self, host: Host, taken: Resources) -> None:
        """A host is new, or its record has changed."""
        row = self.rows.get(host.id)
        if row is None:
            row = self._new_row(host.id)
        self._hosts[host.id] = host
        self.labels.put(host.id, host.labels)
        self._forget_rows()
        self.allocatable[:, row] = host.allocatable
        self.inverse[:, row] = [1.0 / amount if amount > 0 else 0.0 for amount in host.allocatable]
        self.taken[:, row] = taken
        self.open[row] = not (host.cordoned or host.fenced)
        self._zones.put(row, host.zone or f"host {host.id}")
        self._providers.put(row, host.provider)

    def drop(self, host_id: str) -> None:
        """A host has left the fleet."""
        row = self.rows.pop(host_id, None)
        if row is None:
            return
        del self._hosts[host_id]
        self.labels.drop(host_id)
        self._forget_rows()
        self._standing.pop(host_id, None)
        self._mark_images(row, self._images.pop(host_id, NO_IMAGES), NO_IMAGES, tells=False)
        self.ids[row], self.open[row] = "", False
        self.fresh_until_s[row] = NEVER_S
        self._free.append(row)
        self.version += 1

    def take(self, host_id: str, taken: Resources) -> None:
        """What the ledger counts as taken of a host has changed."""
        row = self.rows.get(host_id)
        if row is not None:
            self.taken[:, row] = taken
            self.moves += 1

    def reported(self, host_id: str, report: Report, now_s: float) -> None:
        """A host has sent a report."""
        if report.daemon_ok:
            self.hear(host_id, report.facts, report.taken, now_s, MISSED * report.interval_s)
        else:
            self.silence(host_id)
        if report.at_hand is not None:
            self.hear_images(host_id, report.at_hand)

    def answered(self, host_id: str, answers: Iterable[Bid | Refusal], now_s: float) -> None:
        """A host has answered a call for bids, in time or not. Its answers to one call have the same facts."""
        for answer in answers:
            if isinstance(answer, Bid):
                self.hear(host_id, answer.facts, answer.basis, now_s)
                return
            if answer.reason in CANNOT_BID:
                self.silence(host_id)
                return

    def hear(self, host_id: str, facts: Facts, taken: Resources, now_s: float, fresh_s: float | None = None) -> None:
        """A host has said this of itself: in a report, which holds for `fresh_s`, or with a bid (None: as long)."""
        before = self._standing.get(host_id)
        if fresh_s is None:
            fresh_s = before.fresh_s if before else 0.0
        self._standing[host_id] = said = Standing(facts, taken, now_s, fresh_s)
        if (row := self.rows.get(host_id)) is not None:
            self._show(row, said)

    def silence(self, host_id: str) -> None:
        """A host cannot bid now: it has no standing bid."""
        self._standing.pop(host_id, None)
        if (row := self.rows.get(host_id)) is not None:
            self.fresh_until_s[row] = NEVER_S

    def forget(self, host_id: str) -> None:
        """Another process speaks for a host from now on, which tells everything anew."""
        self.silence(host_id)
        before = self._images.pop(host_id, NO_IMAGES)
        if (row := self.rows.get(host_id)) is not None:
            self._mark_images(row, before, NO_IMAGES, tells=False)

    def hear_images(self, host_id: str, images: HostImages) -> None:
        """A host has said which images it has."""
        before = self._images.get(host_id, NO_IMAGES)
        self._images[host_id] = images
        if (row := self.rows.get(host_id)) is not None:
            self._mark_images(row, before, images)

    def missing(self, images: Iterable[Image]) -> Column | None:
        """For each row the number of these images that the host would have to pull for this microVM; None: no one."""
        wanted = frozenset(images)
        if not wanted or not self._images:
            return None
        found = self._missing.get(wanted)
        if found is None:
            at_hand = np.zeros(len(self.ids))
            for image in wanted:
                if rows := self._at_hand.get(image):
                    at_hand[list(rows)] += 1
            found = np.where(self._tells_images, len(wanted) - at_hand, 0.0)
            remember(self._missing, wanted, found, REMEMBERED)
        return found

    def pulls(self, host_id: str, images: Iterable[Image]) -> tuple[int, int]:
        """How many of these images a host would have to pull for this microVM, and how many are coming already."""
        said, wanted = self._images.get(host_id), set(images)
        return (len(wanted - said.at_hand), len(wanted & said.coming)) if said else (0, 0)

    def standing(self, host_id: str, now_s: float) -> Standing | None:
        """A host's standing bid; None if it has said nothing lately, or cannot bid."""
        said = self._standing.get(host_id)
        return said if said and now_s - said.said_s <= said.fresh_s else None

    # Rows that have something in common.

    def mask(self, host_ids: Iterable[str]) -> Mask:
        """The rows of these hosts."""
        found = np.zeros(len(self.ids), bool)
        found[[row for host_id in host_ids if (row := self.rows.get(host_id)) is not None]] = True
        return found

    def with_room(self, demand: Resources) -> Mask:
        """The hosts whose free room covers a demand, by the ledger."""
        found: Mask = np.all(self.allocatable - self.taken >= _line(demand), axis=0)
        return found

    def of_demand(self, demand: Resources, compute: Callable[[Column, Resources], T]) -> T:
        """What depends only on `inverse` and a demand: computed again only after a host's record has changed."""
        found: T | None = self._of_demand.get(demand)
        if found is None:
            found = compute(self.inverse, demand)
            remember(self._of_demand, demand, found, REMEMBERED)
        return found

    def in_zone(self, zone: str) -> Mask:
        """The hosts of a zone."""
        return self._zones.rows_of(zone, len(self.ids))

    def labelled(self, label: str, value: str) -> Mask:
        """The hosts with this label and value. Looks at each host only after a host's record has changed."""
        found = self._labelled.get((label, value))
        if found is None:
            found = self.mask(host.id for host in self._hosts.values() if host.labels.get(label) == value)
            remember(self._labelled, (label, value), found, REMEMBERED)
        return found

    def scarce(self, required: Labels) -> Column:
        """How scarce each row's host is for a microVM that requires these labels (see core/scarcity.py)."""
        found = self._scarce.get(required)
        if found is None:
            found = np.zeros(len(self.ids))
            for host_id, scarcity in self.labels.scarce(required).items():
                found[self.rows[host_id]] = scarcity.share
            remember(self._scarce, required, found, REMEMBERED)
        return found

    def without_provider(self, unsuited: Callable[[str], object]) -> Mask | None:
        """The hosts whose default provider is `unsuited`; None: no one has such a provider."""
        found: Mask | None = None
        for provider in self._providers.texts():
            if unsuited(provider):
                rows = self._providers.rows_of(provider, len(self.ids))
                found = rows if found is None else found | rows
        return found

    def crowd(self, counted: Counted) -> tuple[Column, Column]:
        """For each row the number of a group's members on the host, and in its failure domain (a zone, or `host ID`
        where a host has none). Nobody may change the first one."""
        crowd = self.crowds.of(counted, len(self.ids))
        return crowd.here, self._zones.spread_out(crowd.by_domain, len(self.ids))

    def _new_row(self, host_id: str) -> int:
        if not self._free:
            self._grow()
        row = self.rows[host_id] = self._free.pop()
        self.ids[row] = host_id
        self._show(row, self._standing.get(host_id, NOTHING))  # it may have spoken before its record was written
        if host_id in self._images:
            self._mark_images(row, NO_IMAGES, self._images[host_id])
        self.version += 1
        return row

    def _forget_rows(self) -> None:
        """A host's record has changed, or a row has another host."""
        for cache in (self._labelled, self._of_demand, self._scarce):
            cache.clear()
        self.crowds.clear()

    def _grow(self) -> None:
        before, more = len(self.ids), max(FIRST_ROWS, len(self.ids))
        self.ids += [""] * more
        self._free += range(before + more - 1, before - 1, -1)
        self._forget_rows()
        self._missing.clear()
        for name in ("allocatable", "taken", "inverse", "facts"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate((old, np.zeros((len(old), more))), axis=1))
        self.open = np.concatenate((self.open, np.zeros(more, bool)))
        self._tells_images = np.concatenate((self._tells_images, np.zeros(more, bool)))
        self.fresh_until_s = np.concatenate((self.fresh_until_s, np.full(more, NEVER_S)))
        self.version += 1

    def _show(self, row: int, said: Standing) -> None:
        self.facts[:, row] = _numbers(said.facts, said.taken.vms)
        self.fresh_until_s[row] = said.said_s + said.fresh_s

    def _mark_images(self, row: int, before: HostImages, now: HostImages, tells: bool = True) -> None:
        self._missing.clear()
        self._tells_images[row] = tells
        had, has = before.at_hand, now.at_hand
        for image in has - had:
            self._at_hand.setdefault(image, set()).add(row)
        for image in had - has:
            self._at_hand[image].discard(row)
            if not self._at_hand[image]:
                del self._at_hand[image]


# The lines of `facts`, as core/pricing.py needs them: the boots that wait, and the seconds that they take; the
# variances of a boot and of the mean of those seen, and the same of pulls, in units of the squared uncertainty.
FACTS = (
    "pressure", "vms", "pending", "ahead_s", "boot_s", "boot_variance", "boot_mean_variance", "pulls", "pull_s",
    "pull_variance", "pull_mean_variance", "uncertainty",
)  # fmt: skip


def _numbers(facts: Facts, vms: int) -> list[float]:
    boot_s = facts.boot_s or UNKNOWN_BOOT_S
    pull_s = UNKNOWN_PULL_S if facts.pull_s is None else facts.pull_s
    ahead_s = facts.pending * boot_s + facts.pulls * pull_s if facts.ahead_s is None else facts.ahead_s
    return [
        facts.pressure or 0.0,
        vms,
        facts.pending,
        ahead_s,
        boot_s,
        boot_s**2,
        boot_s**2 / max(1.0, facts.boots_seen),
        facts.pulls,
        pull_s,
        pull_s**2,
        pull_s**2 / max(1.0, facts.pulls_seen),
        facts.uncertainty,
    ]


def _line(amounts: Resources) -> Column:
    """One number for each line, to be combined with all rows."""
    return np.array(amounts, float)[:, None]
