"""What Billet reads of methods that it has no stubs for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.errors import InvalidRequest
from billet.wire import newer
from billet.wire.flintlock import field


def info(version: str) -> bytes:
    """A ServerInfo reply: field 1 is a message {version = 1, commit = 2}, and other fields follow."""
    return field(1, field(1, version.encode()) + field(2, b"c0ffee")) + b"\x18\x01"


def test_versions_compare_as_versions_and_not_as_text() -> None:
    """Broken on purpose (the message is read as text): every one of them is version 0."""
    ordered = [
        "v0.9.3",
        "0.15.0",
        "0.15.1",
        "0.15.2-rc.1",
        "0.15.2",
        "0.15.3",
        "0.15.10",
        "1.0.0",
        "1.2.0",
        "v10.0.1",
    ]
    shuffled = random.sample(ordered, len(ordered))
    assert sorted(shuffled, key=lambda version: newer.version_of(info(version))) == ordered


@pytest.mark.parametrize("reply", [b"", info(""), info("development"), field(1, b"0.15.2"), field(1, b"\xff\xff")])
def test_a_reply_without_a_version_comes_before_every_release(reply: bytes) -> None:
    assert newer.version_of(reply) == newer.UNKNOWN_VERSION < newer.version_of(info("0.0.1"))


@given(st.binary(max_size=60))
def test_no_reply_of_a_host_is_an_error(reply: bytes) -> None:
    assert newer.version_of(reply) >= newer.UNKNOWN_VERSION


@pytest.mark.parametrize(
    ("method", "message", "uid"),
    [
        (newer.EXEC, field(1, field(1, b"mine") + field(1, b"theirs")), "theirs"),
        (newer.EXEC, field(1, field(1, b"mine")) + field(1, field(1, b"theirs")), "theirs"),
        (newer.EXEC, field(1, field(1, b"mine")) + field(1, field(2, b"cat")), "mine"),
        (newer.SSH, field(1, b"mine") + field(1, b"theirs"), "theirs"),
    ],
)
def test_a_streams_uid_is_the_one_that_flintlockd_reads(method: str, message: bytes, uid: str) -> None:
    """Broken on purpose (the first uid counts): the right is checked for one microVM, and the other one is meant."""
    assert newer.stream_uid(method, message) == uid


@pytest.mark.parametrize("method", [newer.EXEC, newer.SSH])
@pytest.mark.parametrize("message", [b"", field(1, b""), b"\x08\x41"])  # the last: a number where the uid should be
def test_a_stream_without_a_uid_is_refused(method: str, message: bytes) -> None:
    with pytest.raises(InvalidRequest, match="uid"):
        newer.stream_uid(method, message)
