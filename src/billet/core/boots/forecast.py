"""Forecasts: when a host would have a microVM CREATED, and the bound that nine of ten boots keep.

A host boots its microVMs one after another, and pulls each missing image once.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from billet.core.model import Facts

BEYOND = 0.1  # share of microVMs that may take longer than the bound
SIGMAS = NormalDist().inv_cdf(1.0 - BEYOND)  # standard deviations within which nine of ten boots are
STEP = 0.25  # how fast the bound adapts; a larger step adapts sooner and varies more
# Most standard deviations in a bound. 3 are enough for nine of ten under any distribution (Cantelli, 1928: at most
# 1 / (1 + k^2) lie beyond k of them), and the measured deviation is sometimes a quarter too small.
WIDEST = 4.0


def until_created_s(facts: Facts, missing: int) -> float | None:
    """Seconds until one more microVM would be CREATED: the queue, the pulls of `missing` images, its own boot.

    None when unknown: the host has seen no boot yet, or an image is missing and it has never pulled one.
    """
    if not facts.boot_s or (missing and facts.pull_s is None):
        return None
    return _until_s(facts, missing, 1)


def bound_s(facts: Facts, missing: int) -> float | None:
    """The seconds within which nine of ten such microVMs are CREATED; None without a forecast."""
    return None if until_created_s(facts, missing) is None else within_s(facts, missing)


def within_s(facts: Facts, missing: int, own: int = 1) -> float:
    """The same bound with unknown times counted as 0; with `own` = 0, the bound of when its own boot begins.

    bound = forecast + uncertainty x sqrt(n b^2 + k p^2 + (n b)^2 / m + (k p)^2 / q), for n boots of b seconds and k
    pulls of p seconds to come; b is the mean of m boots, p of q pulls. Under the root are the variances of
    independent boots and pulls, and those of their means, in units of the uncertainty.
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
    """The width of a host's bounds in standard deviations, after `times` more boots within the bound or `beyond` it.

    A boot beyond the bound widens it nine times as much as one within narrows it, so that in the long run one of ten
    is beyond, whatever the distribution (adaptive conformal inference: Gibbs, Candès, NeurIPS 2021). WIDEST is the
    limit: a stall that makes a long queue late is one event, and teaches no more than that.
    """
    return min(WIDEST, max(0.0, stretch + times * STEP * (float(beyond) - BEYOND)))


def behind(facts: Facts, more: int) -> Facts:
    """The facts with `more` microVMs (or fewer, if negative) in the boot queue that need no other images."""
    ahead_s = None if facts.ahead_s is None else max(0.0, facts.ahead_s + more * facts.boot_s)
    return facts.with_boots(facts.pending + more, facts.boot_s, ahead_s, facts.pull_s, facts.uncertainty)
