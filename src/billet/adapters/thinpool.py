"""Asks device mapper for the free space of the thin pool for volumes. Needs root."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE

SECTORS_PER_MIB = 2048
TIMEOUT_S = 5.0


async def pool_free_mib(pool: str) -> int:
    """The free space of the pool with this name. Raises OSError with a one-line text."""
    process = await asyncio.create_subprocess_exec("dmsetup", "status", "--noflush", pool, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise OSError(f"dmsetup did not answer within {TIMEOUT_S:.0f} s") from None
    if process.returncode:
        said = err.decode(errors="replace").strip() or f"exit code {process.returncode}"
        raise OSError(f"dmsetup: {said.splitlines()[0]}")  # the first line is the error, the others are guesses
    return free_mib(out.decode(errors="replace"))


def free_mib(status: str) -> int:
    """The free space in dmsetup's line `0 SECTORS thin-pool ID USED/METADATA USED/BLOCKS ...`. Raises OSError."""
    words = status.split()
    try:
        sectors, kind, data = int(words[1]), words[2], words[5]
        used, blocks = (int(part) for part in data.split("/"))
        if kind == "thin-pool":
            return sectors * (blocks - used) // blocks // SECTORS_PER_MIB
    except (ValueError, IndexError, ZeroDivisionError):
        pass
    raise OSError(f"not a thin pool: {status.strip()[:80]!r}")
