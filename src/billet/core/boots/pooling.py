"""Pooling: estimates from all bids of one auction of how long boots and pulls take, and which hosts pull its images.

A host has seen few boots and fewer pulls. Among hosts that are alike, the lowest mean belongs to the one that was
lucky, and so would the lowest bid; the same holds for the smallest uncertainty. So waits are priced with means and
uncertainties that are shrunk towards the mean of all bidders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from billet.core.boots.forecast import SIGMAS, behind
from billet.core.model import Bid, Facts, HostView
from billet.core.scoring import UNKNOWN_BOOT_S, UNKNOWN_PULL_S, wait_s

SHORT_S = 5.0  # a boot queue up to this is priced by the host's own means, whose error is small then
BEGUN = 0.25  # share of a pull after which the next host may begin to pull the image
UNCERTAINTY_SEEN = 16.0  # an uncertainty itself deviates by a quarter (measured), as the mean of 16 boots would


class HostMean(NamedTuple):
    """One host's mean of `seen` boots or pulls; nine of ten take less than (1 + `uncertainty`) times the mean."""

    own_s: float
    uncertainty: float
    seen: float

    @property
    def sampling_variance(self) -> float:
        """The variance that the mean has by chance alone, in square seconds."""
        return (self.own_s * self.uncertainty / SIGMAS) ** 2 / max(1.0, self.seen)


class PooledMean(NamedTuple):
    """The mean of the hosts' means. A host's own mean keeps the share `own` (0 to 1) of its distance from it."""

    mean_s: float
    own: float = 1.0

    def shrunk(self, own_s: float | None) -> float:
        """A host's own mean, shrunk towards the pooled one; the pooled one if it has none (None)."""
        return self.mean_s if own_s is None else self.mean_s + self.own * (own_s - self.mean_s)


class Pooled(NamedTuple):
    """What the bids of one auction say together.

    `facts_by_host`: each bidder's facts, with the awards since its bid counted as waiting.
    `boot`, `pull`, `uncertainty`: the pooled means; None where no bidder has one.
    `pulling`: the hosts that have just begun to pull images of this microVM for others, or will because of awards
    since their bids.
    """

    facts_by_host: Mapping[str, Facts]
    boot: PooledMean | None = None
    pull: PooledMean | None = None
    uncertainty: PooledMean | None = None
    pulling: tuple[str, ...] = ()

    def counted(self, bid: Bid) -> int:
        """The images that a bidder would have to pull, as far as that is part of its wait.

        One host has to pull first, so that the next boots there will have the images: the first pull is free. While
        that host begins, others would only have theirs a little later.
        """
        return bid.missing if self.pulling else 0

    def wait_s(self, bid: Bid, view: HostView) -> float:
        """The wait for the microVM's boot to begin on a bidder."""
        facts = self.adjusted(self.facts_by_host[bid.host], bid.missing)
        return wait_s(facts, self.counted(bid), view.discount.delay)

    def adjusted(self, facts: Facts, missing: int) -> Facts:
        """A bidder's facts with pooled means instead of its own, unless it needs no pooling."""
        if self.needs_no_pooling(facts, missing):
            return facts
        boot_s = self.boot.shrunk(facts.boot_s or None) if self.boot else UNKNOWN_BOOT_S
        pull_s = self.pull.shrunk(facts.pull_s) if self.pull else UNKNOWN_PULL_S
        uncertainty = self.uncertainty.shrunk(facts.uncertainty) if self.uncertainty else facts.uncertainty
        own_boot_s, own_pull_s = facts.boot_s, facts.pull_s or 0.0
        ahead_s = facts.ahead_s
        if ahead_s is None:
            ahead_s = facts.pending * own_boot_s + facts.pulls * own_pull_s
        ahead_s += facts.pending * (boot_s - own_boot_s) + facts.pulls * (pull_s - own_pull_s)
        return facts.with_boots(facts.pending, boot_s, max(0.0, ahead_s), pull_s, uncertainty)

    def needs_no_pooling(self, facts: Facts, missing: int) -> bool:
        """Whether the bidder's own means are good enough: its boot queue is short and it pulls nothing."""
        if missing or facts.pulls:
            return False
        return not facts.pending or 0.0 < facts.pending * facts.boot_s <= SHORT_S


def pool(bids: Sequence[Bid], ledger: Mapping[str, HostView]) -> Pooled:
    """Pool the bids of an auction. `ledger` has a view of each bidder."""
    facts_by_host = {bid.host: facts_now(bid, ledger[bid.host]) for bid in bids}
    alone = Pooled(facts_by_host)
    if all(alone.needs_no_pooling(facts_by_host[bid.host], bid.missing) for bid in bids):
        return alone
    facts = [bid.facts for bid in bids]
    boots = [HostMean(one.boot_s, one.uncertainty, one.boots_seen) for one in facts if one.boot_s]
    pulls = [HostMean(one.pull_s, one.uncertainty, one.pulls_seen) for one in facts if one.pull_s is not None]
    uncertainties = [HostMean(one.uncertainty, SIGMAS, UNCERTAINTY_SEEN) for one in facts]
    return Pooled(
        facts_by_host,
        boot=pooled_mean(boots),
        pull=pooled_mean(pulls),
        uncertainty=pooled_mean(uncertainties),
        pulling=tuple(sorted(bid.host for bid in bids if _begins_to_pull(bid, ledger[bid.host]))),
    )


def _begins_to_pull(bid: Bid, view: HostView) -> bool:
    """Whether a bidder has yet to do most of a pull of this microVM's images, for others that wait there."""
    facts = bid.facts
    if not bid.coming or facts.ahead_s is None:
        return bool(bid.coming or (bid.missing and awarded_since(bid, view)))
    pulls_s = facts.pulls * (UNKNOWN_PULL_S if facts.pull_s is None else facts.pull_s)
    done_s = facts.pending * facts.boot_s + pulls_s - facts.ahead_s
    return done_s < BEGUN * (facts.boot_s + pulls_s)


def facts_now(bid: Bid, view: HostView) -> Facts:
    """A bidder's facts, with the microVMs awarded to it since the bid counted as waiting for their boot."""
    since = awarded_since(bid, view)
    return behind(bid.facts, since) if since else bid.facts


def awarded_since(bid: Bid, view: HostView) -> int:
    """How many microVMs were awarded to the bidder since its bid, by the ledger."""
    return max(0, view.taken.vms - bid.basis.vms)


def pooled_mean(means: Sequence[HostMean]) -> PooledMean | None:
    """Pool the hosts' own means; None if there are none.

    own = 1 - (variance of a mean by chance) / (variance of the means), at least 0: hosts whose means differ no more
    than by chance count as alike (empirical Bayes: Efron, Morris, "Data Analysis Using Stein's Estimator and Its
    Generalizations", JASA 1975).
    """
    if not means:
        return None
    count = len(means)
    mean_s = sum(one.own_s for one in means) / count
    if count == 1:
        return PooledMean(mean_s)
    found = sum((one.own_s - mean_s) ** 2 for one in means) / (count - 1)
    chance = sum(one.sampling_variance for one in means) / count
    return PooledMean(mean_s, max(0.0, 1.0 - chance / found) if found > 0 else 1.0)
