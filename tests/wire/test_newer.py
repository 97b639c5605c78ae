"""What Billet reads of methods that it has no stubs for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
