"""Some inputs for every parser that meets bytes from outside; `python -m tests.fuzz` gives them many.

Broken on purpose, each of these lets a test fail: NOT_JSON or UNREADABLE without ValueError; `parse_json` without
RecursionError; `read_token` without ValueError; `parse_spec` without RecursionError; `is_uid` that accepts "".
"""

from __future__ import annotations

import zlib

import pytest

from tests.fuzz.run import changes, examples
from tests.fuzz.targets import TARGETS

EXAMPLES, CHANGES = 60, 300


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_from_outside_raise_nothing_unexpected(name: str) -> None:
    target, seed = TARGETS[name], zlib.crc32(name.encode())
    changes(target, examples(target, seed, EXAMPLES), seed, CHANGES)
