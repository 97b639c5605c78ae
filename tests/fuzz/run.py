"""Gives a target many inputs: hypothesis makes some from a seed, and each is changed at random many times more."""

from __future__ import annotations

import random
import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.fuzz.inputs import SPECIAL
from tests.fuzz.targets import Target

SLOW_S = 5.0  # of CPU, for one input: a parser that takes this long is a way to stop a server


class Crash(Exception):
    """A parser raised what it should not. The text has the input."""


def examples(target: Target, seed: int, count: int) -> list[Any]:
    """Check up to `count` inputs by hypothesis; returns them. Raises what a check raised, for the smallest input."""
    seen: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate, Phase.shrink], print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs)
    def one(value: Any) -> None:
        seen.append(value)
        checked(target, value)

    one()
    return seen


def changes(target: Target, values: list[Any], seed: int, count: int) -> int:
    """Check `count` changes of these inputs, if they have bytes in them; returns how many. Raises Crash."""
    values = [value for value in values if isinstance(value, int) or _has_bytes(value)]
    chance = random.Random(seed)
    for _ in range(count if values else 0):
        value = _changed(chance, chance.choice(values), values)
        try:
            checked(target, value)
        except Exception as error:
            raise Crash(f"{error!r} for {value!r}") from error
    return count if values else 0


def checked(target: Target, value: Any) -> None:
    """Check one input, and how long it takes."""
    begun_s = time.thread_time()
    target.check(value)
    took_s = time.thread_time() - begun_s
    assert took_s < SLOW_S, f"{took_s:.1f} s of CPU for one input"


def _has_bytes(value: Any) -> bool:
    return isinstance(value[-1] if isinstance(value, tuple) else value, bytes)


def _changed(chance: random.Random, value: Any, values: list[Any]) -> Any:
    if isinstance(value, int):  # the seed of an input
        return chance.getrandbits(64)
    if isinstance(value, tuple):
        others = [other[-1] for other in (chance.choice(values) for _ in range(2))]
        return (*value[:-1], mutated(chance, value[-1], others))
    return mutated(chance, value, [chance.choice(values)])


def mutated(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """These bytes with one to eight changes."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 2:
                del changed[at : at + chance.randrange(1, 40)]
            case 3:
                changed[at : at + chance.randrange(5)] = chance.choice(SPECIAL)
            case 4:
                changed[at:at] = changed[chance.randrange(len(changed) + 1) :][:64]
            case _:
                other = chance.choice(others)
                changed[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(changed[:200_000])
