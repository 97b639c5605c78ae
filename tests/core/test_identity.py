"""Which agent may have which name, and which terms are believed."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.identity import (
    NO_CONFLICTS,
    Admitted,
    Claim,
    Conflicts,
    Refused,
    Waiting,
    decide,
    fingerprint,
    supported_term,
    unbound,
)
from billet.core.model import Host, Resources

ROOM = Resources(8, 16384, 100_000, 10)
KEY, OTHER_KEY = (b64encode(bytes([n]) * 32).decode() for n in (1, 2))
SHOWN = Host("h1", ROOM, ROOM, key=KEY, machine="m1", boot="b1")
BOUND = replace(SHOWN, cordoned=True)
# As stored by a version without identities.
OLD = Host("h1", ROOM, ROOM, cordoned=True, fenced=True)


def claim(**changes: object) -> Claim:
    return Claim(replace(SHOWN, **changes), "one")


def refusal(known: Host | None, said: Claim, conflicts: Conflicts = NO_CONFLICTS) -> str:
    verdict = decide(known, said, conflicts)
    assert isinstance(verdict, Refused)
    return verdict.why


def test_the_first_join_binds_name_key_and_machine() -> None:
    assert decide(None, claim()) == Admitted(SHOWN)
    assert decide(OLD, claim()) == Admitted(replace(SHOWN, cordoned=True, fenced=True))


def test_a_reboot_and_a_change_of_settings_are_let_in() -> None:
    verdict = decide(BOUND, claim(boot="b2", zone="z"))
    assert verdict == Admitted(replace(BOUND, boot="b2", zone="z"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": OTHER_KEY}, "bound to key"),
        ({"key": "", "machine": "", "boot": ""}, "shows no key"),
        ({"machine": "m2"}, "was copied to another machine"),
    ],
)
def test_another_key_or_machine_is_refused_with_what_to_do(changes: dict[str, str], why: str) -> None:
    text = refusal(BOUND, claim(**changes))
    assert why in text
    assert "`billet host rebind h1`" in text
    assert isinstance(decide(unbound(BOUND), claim(**changes)), Admitted)


def test_a_machine_without_an_id_is_not_compared() -> None:
    assert isinstance(decide(BOUND, claim(machine="")), Admitted)
    assert decide(BOUND, claim(machine="")) == Admitted(BOUND)  # and the id that is known is kept


def test_of_a_copied_identity_only_the_present_boot_is_let_in() -> None:
    copied = replace(BOUND, duplicate=True)
    assert decide(copied, claim()) == Admitted(copied)
    assert "was copied" in refusal(copied, claim(boot="b2"))
    assert isinstance(decide(unbound(copied), claim(boot="b2")), Admitted)


def test_a_key_and_a_flintlockd_are_of_one_host() -> None:
    assert "belongs to host 'h2'" in refusal(None, claim(), Conflicts(key="h2"))
    assert "have the same flintlockd" in refusal(BOUND, claim(), Conflicts(daemon="h2"))


def test_with_approval_only_a_new_name_waits() -> None:
    verdict = decide(None, claim(), approve=True)
    assert isinstance(verdict, Waiting)
    assert "`billet host admit h1`" in verdict.why
    assert isinstance(decide(OLD, claim(), approve=True), Admitted)
    assert isinstance(decide(None, claim(), Conflicts(key="h2"), approve=True), Refused)


keys = st.sampled_from(["", KEY, OTHER_KEY])
ids = st.sampled_from(["", "1", "2"])
hosts = st.builds(
    Host, st.just("h1"), st.just(ROOM), st.just(ROOM), key=keys, machine=ids, boot=ids, duplicate=st.booleans()
)


@given(hosts, hosts)
def test_who_is_let_in_is_let_in_again_and_nobody_with_another_key(known: Host, shown: Host) -> None:
    """Hosts flap if what was stored at a join does not let the same agent in."""
    verdict = decide(known, Claim(shown))
    if isinstance(verdict, Admitted):
        assert known.key in ("", shown.key)
        assert decide(verdict.host, Claim(shown)) == verdict or (known.duplicate and not known.key)
        assert (verdict.host.cordoned, verdict.host.fenced) == (known.cordoned, known.fenced)


@pytest.mark.parametrize(
    ("terms", "known", "supported"),
    [
        ([9], 1, 0),  # one host's word never counts
        ([9, 9], 2, 9),
        ([9, 1], 2, 1),
        ([9, 8, 1], 3, 8),
        ([9, 8], 4, 0),
        ([9, 8, 7], 4, 7),
        ([], 0, 0),
    ],
)
def test_a_term_is_supported_by_a_majority_and_at_least_two(terms: list[int], known: int, supported: int) -> None:
    reported = {f"h{n}": term for n, term in enumerate(terms)}
    assert supported_term(reported, {f"h{n}" for n in range(known)}) == supported


@given(st.lists(st.integers(0, 2**61), min_size=1, max_size=9), st.integers(0, 2**61))
def test_one_liar_never_moves_the_term_above_what_an_honest_host_has_obeyed(honest: list[int], lie: int) -> None:
    reported = {f"h{n}": term for n, term in enumerate(honest)} | {"liar": lie}
    assert supported_term(reported, set(reported)) <= max(honest)


def test_hosts_that_are_not_known_do_not_count() -> None:
    assert supported_term({"a": 9, "b": 9, "c": 1, "d": 1}, {"c", "d"}) == 1


def test_a_fingerprint_is_short_and_tells_keys_apart() -> None:
    assert fingerprint("") == ""
    assert len(fingerprint(KEY)) == 16
    assert fingerprint(KEY) != fingerprint(OTHER_KEY)
