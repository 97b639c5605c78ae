"""The figures of a benchmark, worked out from what its runs have shown."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from benchmarks.figures import auctions, cases
from benchmarks.observer import legs
from benchmarks.plan import BILLET, Fleet, Load, Measured, Seen, Settings
from billet.core.model import Auction, Resources
from billet.core.questions.record import AuctionRecord
from billet.core.scoring import DEFAULT_WEIGHTS

FLEET = Fleet(2, 0, "sqlite")
LOAD = Load(4, 10, 4)
EVEN = Seen([5, 5], [[0.0] * 3] * 10, {"bids": [1.0] * 10, "rest": [2.0] * 10})
SETTINGS = Settings(
    hosts=[5, 100], in_flight=[1, 64], stores=["sqlite"], placed=[0, 10_000], creates=600, repeats=3,
    link_tls=True, fake_grpc="ngh2", agents_per_process=250, burst=0, busy_loops=0, silent_hosts=0, against="",
)  # fmt: skip


def run(target: str, seconds: float, latency_ms: float = 1.0, seen: Seen | None = None) -> Measured:
    return Measured(target, LOAD, seconds, [latency_ms] * LOAD.creates, {"client": 0.1}, 0, seen)


def test_billet_is_compared_with_the_runs_right_beside_it():
    """Broken on purpose (the ratio of the medians): 2, since the median of the floor is its fast run."""
    slow_machine = [run("grpcio", 10.0), run(BILLET, 20.0, 3.0, EVEN)]
    fast_machine = [run("grpcio", 1.0), run(BILLET, 2.0, 3.0, EVEN)]
    strange = [run("grpcio", 1.0), run(BILLET, 20.0, 3.0, EVEN)]
    (case,) = cases(FLEET, slow_machine + fast_machine + strange)
    assert case.beside["grpcio"].rate_ratio == 0.5
    assert case.beside["grpcio"].p50_ratio == 3.0
    assert case.creates == 30


def test_two_bids_are_hardly_a_choice():
    """Standing bids count. Broken on purpose (only bids without an age count): all auctions have few."""
    found = auctions([msgspec.structs.replace(EVEN, ages_ms=[[0.0, 0.0, 700.0]] * 9 + [[0.0, 0.0]])])
    assert found.few_bids_share == pytest.approx(0.1)
    assert (found.age_p50_ms, found.age_p99_ms) == (0.0, 700.0)


def test_of_several_runs_the_most_uneven_one_is_shown():
    """Broken on purpose (the last run): 5 to 5."""
    found = auctions([EVEN, msgspec.structs.replace(EVEN, vms=[2, 8]), EVEN])
    assert (found.least, found.most, found.cov) == (2, 8, pytest.approx(0.6))


def test_what_the_auction_does_not_explain_is_the_rest():
    """Broken on purpose (the total counts as a leg): the rest is below zero."""
    auction = Auction("01TOKEN", "demo", "bench-0-0", Resources(1, 1024, 0, 1))
    record = AuctionRecord(auction, DEFAULT_WEIGHTS, at_s=0.0)
    record.legs_ms = {"bids": 3.0, "reserve": 1.0, "boot_order": 2.0, "total": 6.0}
    assert legs(record, latency_ms=8.0) == {"bids": 3.0, "reserve": 1.0, "boot_order": 2.0, "rest": 2.0}


def test_a_burst_comes_to_a_fresh_fleet_each_time():
    assert SETTINGS.fleets() == [Fleet(5, 0, "sqlite"), Fleet(100, 0, "sqlite"), Fleet(100, 10_000, "sqlite")]
    assert SETTINGS.loads() == [Load(1, 200, 20), Load(64, 600, 64)] * 3
    bursts = replace(SETTINGS, burst=512, placed=[0])
    assert bursts.loads() == [Load(512, 512, 0)]
    assert bursts.fleets() == [Fleet(5, 0, "sqlite"), Fleet(100, 0, "sqlite")] * 3
