"""What the bids of one auction say together: how long boots and pulls take, and who pulls its images already.

A host has seen few boots and fewer pulls. Where all are alike, the lowest of their means is that of a host that was
lucky, and the lowest bid would be its; so it is with the smallest of their spreads. So a wait is priced by means and
spreads that are drawn towards each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from billet.core.boots.forecast import BEYOND, behind, within_s
from billet.core.model import Bid, Facts, HostView

SIGMAS = NormalDist().inv_cdf(1.0 - BEYOND)  # a spread is so many standard deviations of a boot
UNCERTAINTY_OF = 16.0  # a spread itself strays by a quarter, like the mean of 16 that stray by all of it (measured)


class Mean(NamedTuple):
    """One host's mean of `seen` boots or pulls, and how far one strays: so many times the mean at nine of ten."""

    own_s: float
    uncertainty: float
    seen: float

    @property
    def by_chance(self) -> float:
        """The variance of such a mean, in square seconds."""
        return (self.own_s * self.uncertainty / SIGMAS) ** 2 / max(1.0, self.seen)


class Common(NamedTuple):
    """The mean of the hosts' own means, and how much of its distance from that a host's own keeps: 1 all, 0 none."""

    mean_s: float
    own: float = 1.0

    def drawn(self, own_s: float | None) -> float:
        """A host's own mean, drawn towards the others'; theirs where it has none."""
        return self.mean_s if own_s is None else self.mean_s + self.own * (own_s - self.mean_s)


class Pooled(NamedTuple):
    """`by_now`: each bidder's own facts, with what was awarded to it since its bid. `boot`, `pull` and
    `uncertainty`: what
    is common to the bidders, None where none of them knows. `pulling`: the hosts that pull images of this microVM for
    others, or are about to, by what was awarded since their bids. `soonest_s`: the least wait for its turn on those
    that pull nothing before it; None where there is none, or none pulls. A queue of up to `short_s` is priced by the
    host's own means: what they may be wrong by is little then."""

    short_s: float
    by_now: Mapping[str, Facts]
    boot: Common | None = None
    pull: Common | None = None
    uncertainty: Common | None = None
    pulling: tuple[str, ...] = ()
    soonest_s: float | None = None

    def seen(self, facts: Facts, missing: int) -> Facts:
        """A bidder's facts, with what is common where it matters."""
        if self.stands(facts, missing):
            return facts
        boot_s = self.boot.drawn(facts.boot_s or None) if self.boot else 0.0
        pull_s = self.pull.drawn(facts.pull_s) if self.pull else None
        uncertainty = self.uncertainty.drawn(facts.uncertainty) if self.uncertainty else facts.uncertainty
        own_boot_s, own_pull_s = facts.boot_s, facts.pull_s or 0.0
        ahead_s = facts.ahead_s
        if ahead_s is None:
            ahead_s = facts.pending * own_boot_s + facts.pulls * own_pull_s
        ahead_s += facts.pending * (boot_s - own_boot_s) + facts.pulls * ((pull_s or 0.0) - own_pull_s)
        return facts.with_boots(facts.pending, boot_s, max(0.0, ahead_s), pull_s, uncertainty)

    def stands(self, facts: Facts, missing: int) -> bool:
        """Whether little waits on the bidder, and nothing is pulled there, so that its own price is good enough."""
        if missing or facts.pulls:
            return False
        return not facts.pending or 0.0 < facts.pending * facts.boot_s <= self.short_s


def pool(bids: Sequence[Bid], ledger: Mapping[str, HostView], short_s: float) -> Pooled:
    """What these bids say together. Of each bidder there is a view."""
    by_now = {bid.host: facts_by(bid, ledger[bid.host]) for bid in bids}
    alone = Pooled(short_s, by_now)
    if all(alone.stands(by_now[bid.host], bid.missing) for bid in bids):
        return alone
    facts = [bid.facts for bid in bids]
    boots = [Mean(one.boot_s, one.uncertainty, one.boots_seen) for one in facts if one.boot_s]
    pulls = [Mean(one.pull_s, one.uncertainty, one.pulls_seen) for one in facts if one.pull_s is not None]
    uncertainties = [Mean(one.uncertainty, SIGMAS, UNCERTAINTY_OF) for one in facts]
    pulling = [bid.host for bid in bids if bid.coming or (bid.missing and awarded_since(bid, ledger[bid.host]))]
    seen = Pooled(short_s, by_now, common(boots), common(pulls), common(uncertainties), tuple(sorted(pulling)))
    free = [bid for bid in bids if not bid.missing and not bid.facts.pulls]
    if not free or len(free) == len(bids):
        return seen
    return seen._replace(soonest_s=min(_boot_begins_s(bid, ledger[bid.host], seen) for bid in free))


def _boot_begins_s(bid: Bid, view: HostView, seen: Pooled) -> float:
    return view.discount.delay * within_s(seen.seen(seen.by_now[bid.host], 0), 0, own=0)


def facts_by(bid: Bid, view: HostView) -> Facts:
    """A bidder's facts by now: what was awarded to it since the bid counts as waiting for its boot."""
    since = awarded_since(bid, view)
    return behind(bid.facts, since) if since else bid.facts


def awarded_since(bid: Bid, view: HostView) -> int:
    """How many microVMs the ledger has given the bidder since its bid."""
    return max(0, view.taken.vms - bid.basis.vms)


def common(means: Sequence[Mean]) -> Common | None:
    """Of the hosts' own means; None without any.

    own = 1 - (variance of a mean by chance) / (variance of the means), at least 0: as far as the hosts differ by no
    more than chance would make them, they are taken to be alike (empirical Bayes: Efron, Morris, "Data Analysis Using
    Stein's Estimator and Its Generalizations", JASA 1975).
    """
    if not means:
        return None
    count = len(means)
    mean_s = sum(one.own_s for one in means) / count
    if count == 1:
        return Common(mean_s)
    found = sum((one.own_s - mean_s) ** 2 for one in means) / (count - 1)
    chance = sum(one.by_chance for one in means) / count
    return Common(mean_s, max(0.0, 1.0 - chance / found) if found > 0 else 1.0)
