"""Bursts in the model of boots: who is done first, and what was foretold."""

from collections import defaultdict

import pytest

from billet.core.scoring import Weights
from billet.whatif.bursts import Bursts, Setting, accuracy, by_billet, by_oracle, by_rule, quantile, waits
from billet.whatif.rules import OTHERS

FAST = Weights(policy="fast")
RUNS = range(6)


def test_a_burst_is_done_sooner_than_under_the_other_rules():
    """100 creates, 10 hosts, the images on half of them; pulls that take as long as 40 boots."""
    setting = Setting(pull_s=20.0)
    ours = waits([Bursts(setting, seed).play(by_billet(FAST)) for seed in RUNS], 100)
    static = waits([by_rule(setting, seed, OTHERS["static"]) for seed in RUNS], 100)
    least = waits([by_rule(setting, seed, OTHERS["least-loaded"]) for seed in RUNS], 100)
    assert ours.p99_s <= 0.6 * static.p99_s
    assert ours.p99_s <= 0.9 * least.p99_s
    assert ours.refused == 0


@pytest.mark.parametrize("pull_s", [0.0, 2.0, 10.0])
def test_nobody_is_much_better_than_one_who_knows_every_time(pull_s):
    setting = Setting(pull_s=pull_s)
    floor = waits([Bursts(setting, seed).play(by_oracle) for seed in RUNS], 100)
    ours = waits([Bursts(setting, seed).play(by_billet(FAST)) for seed in RUNS], 100)
    least = waits([by_rule(setting, seed, OTHERS["least-loaded"]) for seed in RUNS], 100)
    assert 0.99 * floor.p99_s <= ours.p99_s <= least.p99_s


def test_over_many_bursts_nine_of_ten_are_within_the_bound_and_the_median_error_is_small():
    setting = Setting(creates=60, pull_s=2.0, bursts=12)
    told = accuracy([boot for seed in range(2) for boot in Bursts(setting, seed).play(by_billet(FAST))])
    assert told
    assert 0.88 <= told.within <= 0.92
    assert told.error <= 0.15


def test_hosts_boot_one_after_another_and_pull_an_image_once():
    setting = Setting(hosts=2, with_images=1, creates=6, boot_s=1.0, pull_s=5.0, sigma=0.0, rate_per_s=1e9)
    took = defaultdict(list)
    for boot in by_rule(setting, 1, OTHERS["round-robin"]):
        took[boot.host].append(boot.took_s)
    assert took["host-0"] == pytest.approx([1.0, 2.0, 3.0])
    assert took["host-1"] == pytest.approx([11.0, 12.0, 13.0])


def test_a_burst_can_be_played_again():
    one, two = (Bursts(Setting(), 3).play(by_billet(FAST)) for _ in range(2))
    assert one == two


def test_quantiles():
    assert [quantile([1, 2, 3, 4], q) for q in (0.0, 0.25, 0.5, 0.99)] == [1, 1, 2, 4]
