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


MANY = Setting(creates=60, pull_s=2.0, bursts=12)
GROUPS = Setting(hosts=5, with_images=0, creates=20, boot_s=0.3, pull_s=0.5, bursts=30, warm=0)


SETTINGS = {
    "60 at once on 10 hosts, boots of 1 s, pulls of 2 s": MANY,
    "boots of 0.3 s, pulls of 1 s": MANY._replace(boot_s=0.3, pull_s=1.0),
    "boots of 0.5 s, no pulls": MANY._replace(boot_s=0.5, pull_s=0.0),
    "times that vary by 10 %": MANY._replace(sigma=0.1),
    "times that vary by 60 %": MANY._replace(sigma=0.6),
    "20 at once on 5 hosts, boots of 0.3 s, from the first boot on": GROUPS,
}


@pytest.mark.parametrize("weights", [Weights(), FAST], ids=["spread", "fast"])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_over_many_bursts_nine_of_ten_are_within_the_bound_and_the_median_error_is_small(setting, weights):
    """Broken on purpose: with a spread that stays as it begins, 95 to 98 % are within, of calm boots all and of wild
    ones 80; with boots that are not asked how far they stray, 93 % of the calm and 86 of the wild ones; with a bound
    that does not follow what came, 93 to 98."""
    told = foretold(setting, weights)
    assert told
    assert told.boots > 1500
    assert 0.88 <= told.within <= 0.92
    assert told.error <= 0.15 * max(1.0, setting.sigma / 0.3)


def foretold(setting, weights):
    return accuracy([boot for seed in range(4) for boot in Bursts(setting, seed).play(by_billet(weights))])


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


def main():
    """The table of docs/scheduling.md: python -m tests.whatif.test_bursts"""
    print("| setting | `spread` | `fast` |\n|---|---|---|")
    for name, setting in SETTINGS.items():
        told = [foretold(setting, weights) for weights in (Weights(), FAST)]
        print(f"| {name} | {' | '.join(f'{one.error:.1%}, {one.within:.1%} of {one.boots}' for one in told)} |")


if __name__ == "__main__":
    main()
