"""An event loop in virtual time, and processes that can be killed and stopped between any two of their steps.

asyncio alone is not deterministic. In this loop time stands still while anything can run, and then jumps to the next
timer. Timers of the same moment run in the order in which they were set. asyncio keeps tasks and futures in sets, so
their hashes decide the order: here they hash by a serial number instead of by their address in memory.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TICK_S = 1e-6
SPIN_S = 2.0  # seconds of CPU time that no single step takes
MAX_STEPS = 2_000_000  # a run takes some ten thousand; beyond this something spins while time stands still


class StuckError(Exception):
    """No timer is left, or something spins while time stands still."""


class SimProcess:
    """A program of the simulated world.

    Everything that it schedules carries its context. A killed program takes no further step, not even in its
    `finally` blocks. A stopped one (SIGSTOP) catches up on its steps when it continues (SIGCONT).
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.alive = True
        self.context = Context()
        self.context.run(_PROCESS.set, self)
        self.at_death: list[Callable[[], None]] = []  # called when it dies
        self._loop = loop
        self._missed: list[asyncio.Handle] | None = None
        self._fuse = 0
        self._blow: Callable[[], None] = self.kill

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a part of the process."""
        return self._loop.create_task(work, context=self.context.copy())

    def call_at(self, when_s: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call back within the process at a time: for messages that arrive from outside."""
        return self._loop.call_at(when_s, callback, *args, context=self.context)

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        if self.alive:
            self.alive = False
            for then in self.at_death:
                self._loop.call_at(self._loop.time(), then, context=self._loop.world)

    def light_fuse(self, acts: int, blow: Callable[[], None]) -> None:
        """Call `blow` instead of the act with this number, counted from now.

        Acts (effects on the world) are counted, not steps: the number of steps between two acts has no effect on
        others, and differs between versions of Python.
        """
        self._fuse, self._blow = acts, blow

    def acts(self) -> bool:
        """Count one act. False if the process is dead, or dies now, instead of the act."""
        if self._fuse and self.alive:
            self._fuse -= 1
            if self._fuse == 0:
                self._loop.world.run(self._blow)
        return self.alive

    @property
    def stopped(self) -> bool:
        """Whether it is stopped (SIGSTOP)."""
        return self._missed is not None

    def stop(self) -> None:
        """Stop the process (SIGSTOP)."""
        if self._missed is None:
            self._missed = []

    def go_on(self) -> None:
        """Continue the process (SIGCONT)."""
        missed, self._missed = self._missed, None
        self._loop.ready.extend(missed or ())

    def may_step(self, handle: asyncio.Handle) -> bool:
        """Whether to take this step now. Keeps it for later if the process is stopped."""
        if self.alive and self._missed is not None:
            self._missed.append(handle)
            return False
        return self.alive


_PROCESS: ContextVar[SimProcess | None] = ContextVar("process")


def name_of_current() -> str:
    """Name of the process that runs now."""
    process = _PROCESS.get(None)
    return process.name if process else "world"


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(_PROCESS)  # type: ignore[attr-defined]  # private to asyncio, like all names with _ here
        if process is None or process.may_step(self):
            super()._run()


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(_PROCESS)  # type: ignore[attr-defined]
        if process is None or process.may_step(self):
            super()._run()


_serials = itertools.count()


class _Task(asyncio.Task[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._serial = next(_serials)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._serial


class _Future(asyncio.Future[Any]):
    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        self._serial = next(_serials)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._serial


class VirtualLoop(asyncio.BaseEventLoop):
    """See the top of the file. Time starts at 0 s."""

    def __init__(self) -> None:
        super().__init__()
        global _serials
        _serials = itertools.count()
        self.ready: deque[asyncio.Handle] = deque()
        self.world = Context()  # for everything outside of processes
        self.tasks: list[asyncio.Task[Any]] = []  # all tasks of the run: none is collected before its end
        self.steps = 0
        self._now_s = 0.0
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers = itertools.count()
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Virtual seconds since the start of the run."""
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        handle = _Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        handle = _Timer(when, callback, args, self, context)
        heapq.heappush(self._due, (when, next(self._timers), handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        # A waiter must find that time has passed, as with a real clock.
        return self.call_at(
            self._now_s + (max(delay, TICK_S) if delay > 0 else 0.0), callback, *args, context=context
        )

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return _Future(loop=self)

    def process(self, name: str) -> SimProcess:
        """Create a process without any work."""
        return SimProcess(self, name)

    def dispose(self) -> None:
        """End all unfinished tasks after the run, without running them."""
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):
                    task.get_coro().close()
        self.tasks.clear()
        self.close()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T] | Generator[Any, None, T], **rest: Any
    ) -> asyncio.Task[T]:
        task = _Task(work, loop=loop, **rest)
        self.tasks.append(task)
        return task

    def _run_once(self) -> None:
        if not self.ready:
            self._advance()
        for _ in range(len(self.ready)):
            handle = self.ready.popleft()
            if not handle.cancelled():
                self.steps += 1
                handle._run()
        if self.steps > MAX_STEPS:
            raise StuckError(f"{self.steps} steps in only {self._now_s:.3f} s of virtual time")

    def _advance(self) -> None:
        """Advance the time to the next timer."""
        while self._due and self._due[0][2].cancelled():
            heapq.heappop(self._due)
        if not self._due:
            raise StuckError(f"no timer is left at {self._now_s:.3f} s")
        self._now_s = max(self._now_s, self._due[0][0])
        while self._due and self._due[0][0] <= self._now_s:
            self.ready.append(heapq.heappop(self._due)[2])

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are skipped when they are due."""

    def _write_to_self(self) -> None:
        """Do nothing: no other thread calls."""


@contextmanager
def noticing_spins(loop: VirtualLoop) -> Iterator[None]:
    """Raise StuckError within a step that never ends. In threads other than the main one it goes unnoticed."""
    seen = -1

    def look(*_: object) -> None:
        nonlocal seen
        if loop.steps == seen:
            signal.setitimer(signal.ITIMER_VIRTUAL, SPIN_S / 10, SPIN_S / 10)  # the next ones are noticed sooner
            raise StuckError(f"a step spins at {loop.time():.3f} s")
        seen = loop.steps

    try:
        before = signal.signal(signal.SIGVTALRM, look)
    except ValueError:  # not the main thread
        yield
        return
    signal.setitimer(signal.ITIMER_VIRTUAL, SPIN_S / 2, SPIN_S / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
