"""Shared by every Billet process: the clock and orderly shutdown."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from billet.core.errors import BilletError
from billet.reloading import Watch

log = structlog.get_logger()

NEW_OBJECTS = 10_000  # since the last collection, before the next one; Python's own limit is 700
GRACE_S = 30.0  # how long a shutdown waits for calls in flight

_reload_hooks: list[Callable[[], None]] = []  # of the whole process, as signals are


def on_reload(hook: Callable[[], None]) -> None:
    """Call `hook` on the event loop whenever SIGHUP arrives while `until_stopped` runs. It must not block."""
    _reload_hooks.append(hook)


def reload_now() -> None:
    """SIGHUP has arrived: call all hooks. One that fails is logged, and keeps no other from its work."""
    log.info("reloading")
    for hook in tuple(_reload_hooks):
        try:
            hook()
        except Exception:
            log.exception("a part could not be reloaded")


class SystemClock:
    """ports.Clock from the operating system."""

    def now_s(self) -> float:
        """See ports.Clock."""
        return time.time()

    def monotonic_s(self) -> float:
        """See ports.Clock."""
        return time.monotonic()


def shorten_collections() -> None:
    """Keep what is loaded by now out of Python's garbage collections, and collect less often.

    A create makes some thousand objects and hardly any cycle. A full collection looks at all modules again, which
    takes as long as several creates.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


async def until_stopped(work: Coroutine[Any, Any, None], finish: Callable[[], Awaitable[None]]) -> None:
    """Run `work` until it fails or SIGTERM or SIGINT arrives; then await `finish` and cancel `work`.

    A BilletError that ended task groups of `work` is raised itself, without the groups: the user gets its one line.
    Meanwhile files that change are read again; SIGHUP does it at once, and calls what `on_reload` was told.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload_now)
    watch = Watch()
    on_reload(watch.look_now)
    watching = asyncio.create_task(watch.run())
    working = asyncio.create_task(_ungrouped(work))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    watching.cancel()
    if working.done():
        working.result()
    log.info("shutting down")
    await finish()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


async def _ungrouped(work: Awaitable[None]) -> None:
    """Not with except*: Python 3.11.2 puts what that raises into a group again. Another error keeps its traceback."""
    try:
        await work
    except BaseExceptionGroup as errors:
        if errors.split(BilletError)[1]:
            raise
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
