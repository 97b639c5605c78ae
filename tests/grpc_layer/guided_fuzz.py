"""Fuzz a side of the gRPC layer, guided by coverage: `python -m tests.grpc_layer.guided_fuzz server|client [FLAGS]`.

FLAGS are libFuzzer's, such as `-max_total_time=900`. Needs atheris, which is not among the locked packages: it has no
wheels for some machines. What tests/grpc_layer/fuzz.py makes by chance is where it begins.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["billet.grpc", "billet.core.errors"]):
    from tests.grpc_layer import fuzz

STARTS = 200
failures: list[str] = []
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda _, context: failures.append(str(context)))


def one_input(side: str, data: bytes) -> None:
    """The first byte decides about pieces and calls, the rest is what comes from the other side."""
    chance: Any = random.Random(data[0] if data else 0)
    body = data[1:]
    work = fuzz.to_server(chance, body) if side == "server" else fuzz.to_client(chance, body)
    loop.run_until_complete(work)
    assert not failures, failures


def main(side: str, flags: list[str], folder: Path) -> None:
    frames = fuzz.client_frames if side == "server" else fuzz.server_frames
    for seed in range(STARTS):
        chance = random.Random(seed)
        start = fuzz.PREFACE if side == "server" else b""
        (folder / str(seed)).write_bytes(bytes([seed]) + start + fuzz.mutated(frames(chance), chance))
    atheris.Setup([sys.argv[0], str(folder), "-max_len=200000", *flags], lambda data: one_input(side, data))
    atheris.Fuzz()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(sys.argv[1], sys.argv[2:], Path(folder))
