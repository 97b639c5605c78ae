"""Some inputs for every parser that meets bytes from outside; `python -m tests.fuzz` gives them many.

Broken on purpose, each of these lets a test fail: NOT_JSON or UNREADABLE without ValueError; `parse_json` without
ParseError; `parse` or `on_ws_frame` without DecodeError; `answered` that expects the order to be there. The program
finds within seconds what 60 inputs and their changes may not: `get_refusal` that expects a known reason, metadata
that is taken for UTF-8.
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from tests.fuzz.live import LIVE
from tests.fuzz.run import changes, examples
from tests.fuzz.targets import TARGETS, stored

EXAMPLES, CHANGES = 60, 500
TAKEN = b'"h1":[[16,65536,100000,20],[2,2048,'
HUGE = next(data for data in stored("auction-awarded.json") if TAKEN in data).replace(TAKEN, TAKEN + b"9" * 400)
SLOW = {"spec": 100, "workload": 100, "backup": 200}
FOUND = [  # by fuzzing, and fixed
    ("record", ("hosts/", b'{"\xf6":1}')),  # a traceback instead of a damaged store
    ("auction", b'["\x80token-1","h0",[2,2048,0,1],1790000060.0]\n'),
    ("backup", b'{"\x80":1}\n'),
    ("spec", b"[" * 3000),
    ("spec", b'{"interfaces": [{"devic\\ud800d": "eth1"}]}'),  # a SystemError of protobuf
    ("spec", b"metadata: web\nmetadata_text: {user-data: hi}\n"),
    ("auction", HUGE),
    # What is malformed comes before the answer to what precedes it: both were answered, with a traceback in the log.
    ("http port", b"GET nulletrics HTTP/1.0\r\n\r\nGET /health, HTTP/1.1\r\nHost: x\r\nExpect: 100-tinue\r\n\r\n"),
]
ALL = TARGETS | LIVE


@pytest.mark.parametrize("name", ALL)
def test_bytes_from_outside_raise_nothing_unexpected(name: str) -> None:
    target, seed = ALL[name], zlib.crc32(name.encode())
    changes(target, examples(target, seed, EXAMPLES), seed, SLOW.get(name, CHANGES))


@pytest.mark.parametrize(("name", "value"), FOUND, ids=[name for name, _ in FOUND])
def test_what_was_found_stays_fixed(name: str, value: Any) -> None:
    ALL[name].check(value)
