"""Close the messages of a stream when their reader has stopped, and not when their memory is freed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def closing(messages: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Read the messages inside. On the way out they are closed, and the call that they come from is cancelled."""
    try:
        yield messages
    finally:
        if close := getattr(messages, "aclose", None):  # a generator has it
            await close()
