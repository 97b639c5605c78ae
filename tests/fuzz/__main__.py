"""Fuzz every parser that meets bytes from outside: `python -m tests.fuzz [MINUTES] [SEED] [TARGET...]`.

Each target has its turn of some seconds, again and again, with new seeds. Every minute the number of inputs is
printed, and at the end that of each target. A crash is printed with its input and seed, and the others go on; then
the exit code is 1. tests/grpc_layer/guided_fuzz.py is guided by coverage, for the gRPC layer only; it needs atheris.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from collections import Counter

import psutil
import structlog

from tests.fuzz.live import LIVE
from tests.fuzz.run import changes, examples
from tests.fuzz.targets import TARGETS

EXAMPLES, BATCH = 50, 500  # by hypothesis, and changes of these until the clock is looked at
TURN_S, REPORT_S = 4.0, 60.0
GROWTH_MIB = 300.0
ALL = TARGETS | LIVE


def main(minutes: float, seed: int, names: list[str]) -> int:
    """Fuzz for so long; 1 if anything crashed or the process grew."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    begun_s = reported_s = time.monotonic()
    counts: Counter[str] = Counter()
    crashes: Counter[str] = Counter()
    turn, first_mib = 0, 0.0
    while time.monotonic() - begun_s < minutes * 60:
        name = names[turn % len(names)]
        try:
            counts[name] += one_turn(name, seed + turn)
        except Exception:
            crashes[name] += 1
            print(f"CRASH: {name}, seed {seed + turn}", flush=True)
            traceback.print_exc(limit=-6)
        turn += 1
        if time.monotonic() - reported_s > REPORT_S:
            reported_s += REPORT_S
            first_mib = first_mib or mib()
            minute = (time.monotonic() - begun_s) / 60
            print(f"{minute:.0f} min: {counts.total():,} inputs, {mib():.0f} MiB", flush=True)
    for name in names:
        print(f"{name:14} {counts[name]:>12,} inputs {crashes[name]:>4} crashes")
    grown_mib = mib() - first_mib if first_mib else 0.0
    print(f"{'all':14} {counts.total():>12,} inputs {crashes.total():>4} crashes; grown by {grown_mib:.0f} MiB")
    return 1 if crashes or grown_mib > GROWTH_MIB else 0


def one_turn(name: str, seed: int) -> int:
    """Some seconds for one target; the number of inputs."""
    until_s = time.monotonic() + TURN_S
    values = examples(ALL[name], seed, EXAMPLES)
    count = len(values)
    while time.monotonic() < until_s:
        done = changes(ALL[name], values, seed + count, BATCH)
        count += done or len(examples(ALL[name], seed + count, EXAMPLES))  # those without bytes cannot be changed
    return count


def mib() -> float:
    """The memory of this process."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / (1 << 20)


if __name__ == "__main__":
    given = sys.argv[1:]
    minutes, seed = float(given[0]) if given else 1.0, int(given[1]) if given[1:] else 0
    sys.exit(main(minutes, seed, given[2:] or list(ALL)))
