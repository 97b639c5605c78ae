"""Who is calling, by token or certificate, as far as this server has read."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from billet.api.authentication import NOBODY, UNREAD, Authenticator
from billet.core.access import SHARED, Credential, Role
from billet.core.errors import StoreUnreachable, Unauthenticated, Unreachable
from billet.wire.auth import NO_TOKEN, WRONG_TOKEN, basic_header, hash_of
from billet.wire.certificate_names import names_in
from tests.api.callers import callers


class Clock:
    """Moved by hand."""

    at_s = 1_000.0

    def now_s(self) -> float:
        return self.at_s

    monotonic_s = now_s


CI = Credential("ci", Role.USER, ("ci-*",), token_sha256=hash_of("t-ci"))
NODE = Credential("node", Role.USER, ("n",), certificate="spiffe://fleet/node")
OPS = Credential("ops", Role.OPERATOR, ("*",), certificate="ops")


@given(st.text(max_size=40), st.sampled_from(["", "Basic ", "Bearer ", "basic"]))
@example("\ud800", "Bearer ")
def test_no_header_does_harm(text: str, scheme: str) -> None:
    """Broken on purpose (a token need not be ASCII): a half of a surrogate pair after Bearer is an internal error."""
    with pytest.raises(Unauthenticated):
        callers("one for all", CI).identify(scheme + text)


@pytest.mark.parametrize("authorization", [None, "Basic nonsense", basic_header("anything")])
def test_where_nothing_is_configured_everybody_is_nobody(authorization: str | None) -> None:
    assert callers().identify(authorization, ("ops",)) == NOBODY


@pytest.mark.parametrize(
    ("authorization", "certificate", "name"),
    [
        (basic_header("t-ci"), (), "ci"),
        (basic_header("t-ci").replace("Basic", "basic"), (), "ci"),
        ("Bearer t-ci", (), "ci"),
        (basic_header("one for all"), (), SHARED.name),
        (None, ("spiffe://fleet/node",), "node"),
        (None, ("spiffe://fleet/other", "x.example", "ops"), "ops"),
        (None, ("spiffe://fleet/node", "ops"), "node"),
        (basic_header("t-ci"), ("ops",), "ci"),
    ],
)
def test_a_caller_is_named_by_its_token_or_else_its_certificate(
    authorization: str | None, certificate: tuple[str, ...], name: str
) -> None:
    assert callers("one for all", CI, NODE, OPS).identify(authorization, certificate) == name


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        (None, NO_TOKEN),
        ("", NO_TOKEN),
        ("Digest x", NO_TOKEN),
        (basic_header("wrong"), WRONG_TOKEN),
        (basic_header(hash_of("t-ci")), WRONG_TOKEN),
        ("Basic not base64", WRONG_TOKEN),
        ("Basic /w==", WRONG_TOKEN),
        ("Basic ", WRONG_TOKEN),
        ("Bearer", NO_TOKEN),
        ("Bearer one for all", NO_TOKEN),
        (basic_header(""), WRONG_TOKEN),
    ],
)
@pytest.mark.parametrize("token", ["", "one for all"])
def test_nobody_else_is_let_in(authorization: str | None, text: str, token: str) -> None:
    """A wrong token is refused with a known certificate, too: it is a mistake that should be seen.

    Broken on purpose (a token that cannot be read counts as none): the certificate is taken instead.
    """
    with pytest.raises(Unauthenticated) as caught:
        callers(token, CI, NODE).identify(authorization, () if text == NO_TOKEN else ("spiffe://fleet/node",))
    assert caught.value.text == text


async def test_an_expired_credential_is_refused_and_so_is_one_that_is_there_no_more() -> None:
    clock, stored = (
        Clock(),
        [Credential("ci", Role.USER, ("*",), token_sha256=hash_of("t"), expires_at_s=1_060.0), OPS],
    )

    async def read() -> list[Credential]:
        return list(stored)

    made = Authenticator(read, "", clock)
    await made.read()
    assert made.identify(basic_header("t")) == "ci"
    clock.at_s = 1_060.0
    with pytest.raises(Unauthenticated, match="expired"):
        made.identify(basic_header("t"))
    clock.at_s = 1_059.0
    del stored[0]
    await made.read()
    with pytest.raises(Unauthenticated, match="invalid auth token"):
        made.identify(basic_header("t"))


async def test_without_the_store_what_was_read_last_stays_in_force_and_its_age_is_known() -> None:
    """Broken on purpose (a failed look counts as an empty one): everybody is let in."""
    clock, answers = Clock(), [[CI]]

    async def read() -> list[Credential]:
        if not answers:
            raise StoreUnreachable("the store does not answer")
        return answers.pop()

    made = Authenticator(read, "", clock)
    assert made.age_s is None
    assert made.identify("Bearer t-ci") == UNREAD
    await made.read()
    clock.at_s += 30.0
    await made.read()
    assert made.age_s == 30.0
    assert made.identify("Bearer t-ci") == "ci"
    with pytest.raises(Unauthenticated):
        made.identify(None)


async def test_a_server_that_has_not_read_the_store_yet_does_not_say_that_a_token_is_wrong() -> None:
    async def read() -> list[Credential]:
        raise StoreUnreachable("the store does not answer")

    made = Authenticator(read, "one for all", Clock())
    assert made.identify(basic_header("one for all")) == SHARED.name
    for authorization, certificate in (("Bearer t-ci", ()), (None, ("ops",))):
        with pytest.raises(Unreachable, match="try again"):
            made.identify(authorization, certificate)
    with pytest.raises(Unauthenticated):
        made.identify(None)


def test_names_in_a_certificate_are_uris_then_dns_names_then_the_common_name() -> None:
    shown = {
        "subject": ((("organizationName", "x"),), (("commonName", "ci"),)),
        "subjectAltName": (("DNS", "ci.example"), ("URI", "spiffe://fleet/ci"), ("IP Address", "10.0.0.1")),
    }
    assert names_in(shown) == ("spiffe://fleet/ci", "ci.example", "ci")
    assert names_in({}) == ()


def test_a_credential_that_expires_is_in_the_log_a_month_a_week_and_a_day_ahead() -> None:
    """Broken on purpose (each look logs it): thousands of lines. (One for a day is logged at once): one line more."""
    clock = Clock()
    made = Authenticator(callers, "", clock)  # type: ignore[arg-type]  # it is told what there is
    day_s = 86_400.0
    long = Credential("long", Role.VIEWER, ("*",), token_sha256="aa", created_at_s=1_000.0, expires_at_s=60 * day_s)
    short = Credential("short", Role.VIEWER, ("*",), token_sha256="bb", created_at_s=1_000.0, expires_at_s=day_s)
    with capture_logs() as logs:
        while clock.at_s < 61 * day_s:
            made.take([long, short, OPS])
            clock.at_s += 7_200.0
    said = [(line["name"], line["renew"]) for line in logs if line["event"].startswith("credential expires")]
    assert said == [
        ("short", "it has expired"), ("long", "within a month"), ("long", "within a week"), ("long", "within a day"),
        ("long", "it has expired"),
    ]  # fmt: skip


async def test_a_look_at_the_store_does_not_undo_what_the_leader_has_changed_meanwhile() -> None:
    """Broken on purpose (the look counts): the revoked credential is back until the next look."""
    made = callers("", OPS)

    async def read() -> list[Credential]:
        made.take([OPS])
        return [OPS, CI]

    made = Authenticator(read, "", Clock())
    await made.read()
    with pytest.raises(Unauthenticated):
        made.identify(basic_header("t-ci"))


async def test_of_two_looks_at_once_the_later_one_counts() -> None:
    """A server that was asked for a credential looks at once, while its look of every second may be under way.

    Broken on purpose (the one that ends last is dropped): its next call is refused, although it has its answer.
    """
    answers: list[asyncio.Future[list[Credential]]] = []

    async def read() -> list[Credential]:
        answers.append(asyncio.get_running_loop().create_future())
        return await answers[-1]

    made = Authenticator(read, "", Clock())
    for order in ((0, 1), (1, 0)):
        answers.clear()
        made.take([OPS])
        looks = [asyncio.create_task(made.read()) for _ in range(2)]
        await asyncio.sleep(0)
        for index in order:
            answers[index].set_result([OPS, CI] if index else [OPS])
            await looks[index]
        assert made.identify(basic_header("t-ci")) == "ci"
