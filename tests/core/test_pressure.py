"""Pressure: what the kernel measures, smoothed, and room that is promised and not there."""

import math

from hypothesis import given
from hypothesis import strategies as st

from billet.core.pressure import HALF_LIFE_S, NO_STALLS, Stalls, backed_mib, felt, smoothed, squeeze

shares = st.floats(0, 1)
amounts = st.integers(0, 1 << 20)


@given(shares, shares, st.floats(0.01, 100), st.integers(2, 9))
def test_how_often_it_is_looked_at_does_not_matter(before, newest, span_s, looks):
    once = smoothed(before, newest, span_s)
    share = before
    for _ in range(looks):
        share = smoothed(share, newest, span_s / looks)
    assert math.isclose(share, once, abs_tol=1e-9)
    assert min(before, newest) - 1e-9 <= once <= max(before, newest) + 1e-9


def test_after_a_half_life_half_of_it_is_left():
    assert math.isclose(smoothed(0.8, 0.0, HALF_LIFE_S), 0.4)


@given(amounts, amounts, amounts)
def test_less_that_is_truly_free_never_feels_better(promised, free, less):
    assert squeeze(promised, max(0, free - less)) >= squeeze(promised, free)
    assert 0 <= squeeze(promised, free) <= 1
    assert squeeze(promised, promised) == 0


def test_a_host_whose_memory_is_gone_feels_it_and_one_with_a_little_less_does_not():
    assert squeeze(16384, 15000) == 0
    assert math.isclose(squeeze(20_000, 4_500), 0.75)
    assert squeeze(0, 0) == 0  # nothing is promised any more


def test_what_is_not_known_is_left_out_and_the_worst_of_the_rest_counts():
    assert felt(NO_STALLS, (1000, None), (1000, None)) is None
    assert felt(Stalls(memory=0.3, io=0.1), (1000, None), (1000, None)) == 0.3
    assert felt(Stalls(cpu=0.3), (10_000, 900), (10_000, None)) == 0.9
    assert felt(NO_STALLS, (1000, 1000), (10_000, 0)) == 1.0


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_of_what_is_promised_only_what_there_is_has_to_be_there(free, capacity, allocatable):
    assert 0 <= backed_mib(free, capacity, allocatable) <= free
    assert backed_mib(allocatable, capacity, allocatable) == min(capacity, allocatable)
