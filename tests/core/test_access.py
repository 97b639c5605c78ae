"""`may`: the table of roles, and that nothing outside of it is allowed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.access import (
    NEEDS,
    SHARED,
    Credential,
    Role,
    Verb,
    conflict,
    covers,
    invalid,
    locks_out,
    matches,
    may,
)
from billet.core.errors import says_not_found

HASH = "ab" * 32
patterns = st.text("abc-", max_size=4).flatmap(lambda stem: st.sampled_from([stem, f"{stem}*"])).filter(bool)
namespaces = st.text("abc-", min_size=1, max_size=6) | st.sampled_from(["x not found", "*", "ci-1"])
credentials = st.builds(
    Credential,
    name=st.text("abc", min_size=1, max_size=4),
    role=st.sampled_from(Role),
    namespaces=st.lists(patterns, min_size=1, max_size=3).map(tuple),
    exec=st.booleans(),
    token_sha256=st.just(HASH),
)

# role -> what it may do in its namespaces, without exec. Written a second time, so that no slip in NEEDS goes unseen.
MAY = {
    Role.VIEWER: {"see the hosts", "see placements and auctions"},
    Role.USER: {
        "see the hosts", "see placements and auctions", "read microVMs", "create microVMs", "delete microVMs",
    },
    Role.OPERATOR: {
        "see the hosts", "see placements and auctions", "read microVMs", "create microVMs", "delete microVMs",
        "change hosts or credentials",
    },
}  # fmt: skip


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("verb", Verb)
def test_exec_is_a_right_of_its_own_and_all_others_come_with_the_role(role: Role, verb: Verb) -> None:
    """Broken on purpose (exec comes with operator): fails."""
    without, with_exec = (Credential("x", role, ("*",), exec=yes) for yes in (False, True))
    assert (may(without, verb, "ns") is None) == (verb.value in MAY[role])
    assert (may(with_exec, verb, "ns") is None) == (verb.value in MAY[role] or verb is Verb.EXEC)


@given(credentials, st.sampled_from(Verb), st.none() | namespaces)
def test_a_caller_may_do_what_its_role_says_where_its_patterns_say(
    who: Credential, verb: Verb, namespace: str | None
) -> None:
    """Broken on purpose (a pattern's star stands for nothing): fails."""
    allowed = who.exec if verb is Verb.EXEC else verb.value in MAY[who.role]
    there = namespace is None or any(
        namespace[: len(pattern) - 1] == pattern[:-1] if pattern[-1] == "*" else namespace == pattern
        for pattern in who.namespaces
    )
    assert (may(who, verb, namespace) is None) == (allowed and there)


@given(credentials, st.sampled_from(Verb), st.none() | namespaces)
def test_a_refusal_names_the_caller_what_it_lacks_and_how_to_get_it_and_never_says_that_something_is_gone(
    who: Credential, verb: Verb, namespace: str | None
) -> None:
    """Broken on purpose (the namespace is shown as it is): a namespace called "x not found" says that it is gone."""
    refusal = may(who, verb, namespace)
    if refusal is None:
        return
    assert refusal.startswith(f"{who.name} may not {verb.value}")
    assert not says_not_found(refusal)
    assert "billet token create" in refusal or verb is Verb.OTHER


@given(credentials, st.sampled_from(Verb), st.none() | namespaces)
def test_more_rights_never_allow_less(who: Credential, verb: Verb, namespace: str | None) -> None:
    more = replace(who, namespaces=(*who.namespaces, "*"), exec=True, role=Role.OPERATOR)
    assert may(who, verb, namespace) is not None or may(more, verb, namespace) is None


def test_every_verb_but_exec_and_unknown_methods_needs_a_role() -> None:
    assert set(NEEDS) == set(Verb) - {Verb.EXEC, Verb.OTHER}


@pytest.mark.parametrize("verb", Verb)
def test_the_shared_token_may_do_everything(verb: Verb) -> None:
    assert may(SHARED, verb, "anywhere") is None


@pytest.mark.parametrize(
    ("pattern", "namespace", "yes"),
    [
        ("*", "", True),
        ("*", "a", True),
        ("ci-*", "ci-", True),
        ("ci-*", "ci-7", True),
        ("ci-*", "ci", False),
        ("ci-*", "xci-7", False),
        ("ci", "ci", True),
        ("ci", "ci-7", False),
        ("c?", "ci", False),
        ("", "", True),
    ],
)
def test_a_pattern_is_a_name_or_a_beginning(pattern: str, namespace: str, yes: bool) -> None:
    assert matches(pattern, namespace) is yes
    assert covers(Credential("x", Role.USER, ("other", pattern)), namespace) is yes


RIGHT = Credential("ci", Role.USER, ("ci-*",), token_sha256=HASH)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"role": Role.OPERATOR, "namespaces": ("*",)}, None),
        ({"role": Role.VIEWER, "namespaces": ("*",)}, None),
        ({"exec": True}, None),
        ({"token_sha256": "", "certificate": "spiffe://billet/ci"}, None),
        ({"name": "shared"}, "stands for --basic-auth-token"),
        ({"name": "billet"}, "for Billet itself"),
        ({"name": ""}, "cannot be a credential's name"),
        ({"name": "a b"}, "cannot be a credential's name"),
        ({"name": "a/b"}, "cannot be a credential's name"),
        ({"name": "x" * 64}, "cannot be a credential's name"),
        ({"token_sha256": ""}, "either a token or the name in a certificate"),
        ({"certificate": "x"}, "either a token or the name in a certificate"),
        ({"token_sha256": "secret"}, "not a SHA-256"),
        ({"token_sha256": "", "certificate": "a\nb"}, "printable characters"),
        ({"namespaces": ()}, "give --namespace"),
        ({"namespaces": ("",)}, "is not a namespace"),
        ({"namespaces": ("a*b",)}, "is not a namespace"),
        ({"namespaces": ("**",)}, "is not a namespace"),
        ({"namespaces": ("a b",)}, "is not a namespace"),
        ({"namespaces": ("a",) * 65}, "too many"),
        ({"role": Role.OPERATOR}, "leave --namespace out"),
        ({"role": Role.VIEWER, "exec": True}, "choose role user"),
    ],
)
def test_what_cannot_be_a_credential_says_why(changes: dict[str, object], why: str | None) -> None:
    refusal = invalid(replace(RIGHT, **changes))  # type: ignore[arg-type]
    assert refusal is None if why is None else refusal and why in refusal


def test_a_refusal_shows_no_control_characters_and_has_a_bounded_length() -> None:
    """Broken on purpose (the namespace is shown as it is): an escape sequence, and megabytes."""
    for namespace in ("x\x1b[2J\n", "x" * 1_000_000):
        refusal = may(RIGHT, Verb.CREATE, namespace)
        assert refusal
        assert refusal.isprintable()
        assert len(refusal) < 1_000


def test_two_credentials_share_neither_name_nor_token_nor_certificate() -> None:
    known = [RIGHT, Credential("node", Role.USER, ("a",), certificate="n1")]
    assert conflict(replace(RIGHT, token_sha256="cd" * 32), known)
    assert conflict(replace(RIGHT, name="ci-2"), known)
    assert conflict(replace(known[1], name="node-2"), known)
    assert conflict(replace(RIGHT, name="ci-2", token_sha256="cd" * 32), known) is None
    assert conflict(RIGHT, known) is None  # the same request, sent again to the next leader
    assert conflict(replace(RIGHT, created_at_s=7.0, created_by="b", expires_at_s=9.0), known) is None


def test_without_an_operator_nobody_could_change_credentials() -> None:
    operator = Credential("ops", Role.OPERATOR, ("*",), token_sha256=HASH, expires_at_s=10.0)
    assert locks_out([RIGHT], 5.0)
    assert not locks_out([RIGHT, operator], 5.0)
    assert locks_out([RIGHT, operator], 10.0)
    assert not locks_out([replace(operator, expires_at_s=0.0)], 10.0)
