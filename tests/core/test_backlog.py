"""When those who are refused are told to come back."""

from __future__ import annotations

from billet.core.backlog import WITHIN_S, Backlog
from billet.core.metadata import RETRY_MAX_S, retry_ms


def test_who_is_refused_comes_back_when_the_others_are_done() -> None:
    """300 creates of 3 MB, each 0.3 s. Broken on purpose (1 to 2 s, always): 600 MB a second come to be refused."""
    backlog = Backlog()
    for n in range(100):
        backlog.ended(n * 0.3)
    waits_s = [backlog.refused(30.0, waiting=20) for _ in range(280)]
    assert 5.0 < waits_s[0] < 7.0
    assert 80.0 < waits_s[-1] < 95.0
    assert backlog.refused(30.0 + 20 * WITHIN_S, waiting=20) < 7.0, "those are forgotten"


def test_a_first_refusal_names_a_second_or_two() -> None:
    assert {retry_ms(n, Backlog().refused(5.0, 0)) // 1000 for n in range(100)} == {1}
    assert {retry_ms(n, 10.0) // 10_000 for n in range(100)} == {1}
    assert max(retry_ms(n, 1e9) for n in range(100)) <= RETRY_MAX_S * 1000


def test_a_pause_without_creates_is_no_measure_of_how_long_one_takes() -> None:
    backlog = Backlog()
    backlog.ended(0.0)
    backlog.ended(3600.0)
    assert backlog.refused(3600.0, 0) <= 0.2
