"""Bursts and streams of creates, and how long they wait under Billet and under rules that ignore boots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from billet.core.model import Resources
from billet.core.scoring import Weights
from billet.whatif.bursts import BurstRule, Bursts, BurstSettings, by_billet, by_rule, waits
from billet.whatif.rules import OTHERS

SEEDS = range(10)
HALF_FULL = tuple(0.66 + 0.0008 * (37 * n % 100) for n in range(100))  # shares taken of 100 hosts: 66 to 74 %
UNEQUAL = tuple(Resources(vcpu, 4096 * vcpu, 0, 1000) for vcpu in (32, 32, 64, 128))
DEMO = tuple(Resources(vcpu, 4096 * vcpu, 0, 1000) for vcpu in (16, 32, 48, 64, 80))
STREAM = BurstSettings(creates=500, rate_per_s=5.0, pull_s=2.0)
HUNDRED = BurstSettings(hosts=100, creates=200, warm=5, taken=HALF_FULL)

# 10 hosts of 128 vCPU, five of them with the images, and boots of 1 s, unless a case says otherwise.
CASES = {
    "500 at 5/s, images on half, pulls of 2 s": STREAM,
    "500 at 7/s, images on half, pulls of 2 s": STREAM._replace(rate_per_s=7.0),
    "500 at 7/s, images on half, pulls of 10 s": STREAM._replace(rate_per_s=7.0, pull_s=10.0),
    "120 at 20/s, 40 hosts, 36 of them 70 % full": BurstSettings(
        hosts=40, with_images=40, creates=120, rate_per_s=20.0, taken=(0.0, *[0.7] * 9)
    ),
    "300 at 20/s, boots of 0.5 s, every fifth host 4 times slower": BurstSettings(
        with_images=10, creates=300, rate_per_s=20.0, boot_s=0.5, slowness=(1, 1, 1, 1, 4)
    ),
    "100 at once, images everywhere": BurstSettings(with_images=10),
    "100 at once, images on half, pulls of 10 s": BurstSettings(),
    "200 at once, images on 20 of 100 hosts, pulls of 10 s": HUNDRED._replace(with_images=20),
    "200 at once, images on 50 of 100 hosts, pulls of 10 s": HUNDRED._replace(with_images=50),
}
# None of the numbers was chosen on these.
OTHER_CASES = {
    "300 at 8/s, images on 3 of 10 hosts, pulls of 5 s": STREAM._replace(
        creates=300, rate_per_s=8.0, pull_s=5.0, with_images=3
    ),
    "600 at 12/s, images on 6 of 20 hosts, pulls of 5 s": STREAM._replace(
        hosts=20, creates=600, rate_per_s=12.0, pull_s=5.0, with_images=6
    ),
    "100 at 20/s, images on half, pulls of 10 s": BurstSettings(rate_per_s=20.0),
    "60 at 5/s, 20 hosts, 2 of them new, boots of 3 s": BurstSettings(
        hosts=20, with_images=20, creates=60, rate_per_s=5.0, boot_s=3.0, taken=(0.0, *[0.6] * 9)
    ),
    "200 at 10/s, every third host twice as slow": BurstSettings(
        with_images=10, creates=200, rate_per_s=10.0, slowness=(1, 1, 2)
    ),
    "20 at once, 5 unequal hosts (16 to 80 vCPU)": BurstSettings(
        hosts=5, with_images=5, creates=20, rooms=DEMO
    ),
    "60 at 10/s, 5 unequal hosts that have never booted, boots of 0.3 s, pulls of 0.5 s": BurstSettings(
        hosts=5, with_images=0, creates=60, rate_per_s=10.0, boot_s=0.3, pull_s=0.5, warm=0, rooms=DEMO, listed=False
    ),
    "400 at 100/s, 20 unequal hosts (32 to 128 vCPU), boots of 0.5 s": BurstSettings(
        hosts=20, with_images=20, creates=400, rate_per_s=100.0, boot_s=0.5, rooms=UNEQUAL
    ),
    "100, one every 30 s, boots of 5 s, every other host twice as slow": BurstSettings(
        with_images=10, rate_per_s=1 / 30, boot_s=5.0, slowness=(1, 2)
    ),
    "100, one every 30 s, images on half, pulls of 20 s": BurstSettings(rate_per_s=1 / 30, pull_s=20.0),
}  # fmt: skip
RULES: dict[str, Callable[[], BurstRule]] = {
    "spread": partial(by_billet, Weights()),
    "static list": partial(by_rule, OTHERS["static"]),
    "least loaded": partial(by_rule, OTHERS["least-loaded"]),
    "fast": partial(by_billet, Weights(policy="fast")),
}


class Cell(NamedTuple):
    """One rule in one case: means over the seeds. CoV: when all have come, and after as many that came calmly."""

    p99_s: float
    cov: float
    calm: float


def measure(setting: BurstSettings, rule: Callable[[], BurstRule], calm: bool = True) -> Cell:
    """Play a case with one rule."""
    runs, covs, calms = [], [], []
    for seed in SEEDS:
        bursts, choose = Bursts(setting, seed), rule()
        runs.append(bursts.play(choose))
        covs.append(bursts.cov())
        if calm:
            bursts.calm(choose)
            calms.append(bursts.cov())
    return Cell(waits(runs, setting.creates).p99_s, sum(covs) / len(covs), sum(calms) / max(1, len(calms)))


def table() -> Iterator[str]:
    """p99 in seconds under each rule, and CoV when all have come and after as many calm creates."""
    head = [f"{name}: p99 s; CoV, calm" for name in RULES]
    yield f"| case | {' | '.join(head)} |"
    yield f"|{'---|' * (len(head) + 1)}"
    for name, setting in (CASES | OTHER_CASES).items():
        cells = [measure(setting, rule) for rule in RULES.values()]
        row = [f"{cell.p99_s:.1f}; {cell.cov:.3f}, {cell.calm:.3f}" for cell in cells]
        yield f"| {name} | {' | '.join(row)} |"
