"""What a bid foretells: when the microVM would be CREATED there, and within which time nine of ten are.

A host boots its microVMs one after another, and pulls each image that it does not have, once.
"""

from __future__ import annotations

from math import sqrt

from billet.core.model import Facts

BEYOND = 0.1  # the share of microVMs that may take longer than the bound
STEP = 0.25  # how fast the bound follows; more follows sooner, and wavers more
# Standard deviations that a bound allows for at the most. 3 are enough for nine of ten of whatever distribution
# (Cantelli, 1928: at most 1 / (1 + k^2) are beyond k of them), and those that are measured are a quarter too few at
# times.
WIDEST = 4.0


def until_created_s(facts: Facts, missing: int) -> float | None:
    """Seconds until one more microVM would be CREATED: those that wait, its own boot, the pulls of its images.

    None where the host does not know: it has seen no boot yet, or an image is missing and it has never pulled one.
    """
    if not facts.boot_s or (missing and facts.pull_s is None):
        return None
    return _until_s(facts, missing, 1)


def bound_s(facts: Facts, missing: int) -> float | None:
    """The time within which nine of ten such microVMs are CREATED; None where nothing is foretold."""
    return None if until_created_s(facts, missing) is None else within_s(facts, missing)


def within_s(facts: Facts, missing: int, own: int = 1) -> float:
    """The same bound, where times that are not known count as 0; with `own` 0, of when its own boot would begin.

    bound = foretold + spread x sqrt(n b^2 + k p^2 + (n b)^2 / m + (k p)^2 / q), for n boots of b seconds and k pulls
    of p that are to come; b is a mean of m boots, p of q pulls. Below the root are the variances of boots and pulls
    that vary independently, and those of their means, in units of the spread.
    """
    boots, pulls, pull_s = facts.pending + own, facts.pulls + missing, facts.pull_s or 0.0
    variance = boots * facts.boot_s**2 + pulls * pull_s**2
    variance += (boots * facts.boot_s) ** 2 / max(1.0, facts.boots_seen)
    variance += (pulls * pull_s) ** 2 / max(1.0, facts.pulls_seen)
    return _until_s(facts, missing, own) + facts.uncertainty * sqrt(variance)


def _until_s(facts: Facts, missing: int, own: int) -> float:
    pull_s, ahead_s = facts.pull_s or 0.0, facts.ahead_s
    if ahead_s is None:
        ahead_s = facts.pending * facts.boot_s + facts.pulls * pull_s
    return ahead_s + own * facts.boot_s + missing * pull_s


def next_stretch(stretch: float, beyond: bool, times: int = 1) -> float:
    """How wide a host makes its bounds, after so many more that were CREATED within the bound, or `beyond` it.

    Each that is beyond widens the bound nine times as much as one within it narrows it, so that in the long run one
    of ten is beyond, whatever the boots are like (adaptive conformal inference: Gibbs, Candès, NeurIPS 2021). Beyond
    WIDEST it does not go: where one stall makes a long queue late, that is one event, and no more is learnt of it.
    """
    return min(WIDEST, max(0.0, stretch + times * STEP * (float(beyond) - BEYOND)))


def behind(facts: Facts, more: int) -> Facts:
    """The facts once so many microVMs more (or fewer) wait there, whose images are the same as those of the next."""
    ahead_s = None if facts.ahead_s is None else max(0.0, facts.ahead_s + more * facts.boot_s)
    return facts.with_boots(facts.pending + more, facts.boot_s, ahead_s, facts.pull_s, facts.uncertainty)
