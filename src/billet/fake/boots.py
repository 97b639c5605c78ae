"""The one reconcile worker of a flintlockd: it boots and deletes microVMs one after another.

That a host boots serially is why its count of PENDING microVMs predicts how long the next one will take.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from billet.fake import names
from billet.fake.disk import Disk
from billet.fake.faults import FaultKind, Faults
from billet.fake.model import DELETING, FAILED, PENDING, StoredMicroVm, images, run
from billet.fake.settings import FakeConfig

RETRY_STEP_S = 20.0  # retry n waits n times this
RETRIES_MAX = 10  # the eleventh failure is final
RESYNC_S = 600.0  # between two looks at all microVMs; the first one is at the start
RESYNC_MIN_S = 0.2  # however fast time runs
DEAD_PID = (1 << 22) + 1  # more than any process of Linux has
PANIC_EXIT = 2  # exit code of a Go program that panics


@dataclass
class BootStats:
    """Counters of the worker since the start of the process."""

    created_s: dict[str, float] = field(default_factory=dict)  # uid -> from accepted to CREATED
    pulls: dict[str, int] = field(default_factory=dict)  # image -> number of pulls
    attempts: int = 0
    running: int = 0
    running_max: int = 0  # must be 1, as in flintlockd


class BootWorker:
    """The worker, its queue and its images. All microVMs of the host are in `records`."""

    def __init__(
        self,
        config: FakeConfig,
        records: dict[str, StoredMicroVm],
        disk: Disk,
        faults: Faults,
        die: Callable[[int], object],
    ) -> None:
        self._config = config
        self._records = records
        self._disk = disk
        self._faults = faults
        self._die = die
        self._chance = random.Random(config.seed)
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._cached: set[str] = set()
        self._backing_off: dict[str, asyncio.TimerHandle] = {}  # by uid, until when nothing is done about it
        self._resync: asyncio.TimerHandle | None = None
        self._worker: asyncio.Task[None] | None = None
        self.stats = BootStats()

    def start(self) -> None:
        """Start with a resync. It leaves what backs off: its timer was lost, so it waits for the next resync."""
        self._look_at_all({uid for uid, record in self._records.items() if record.vm.status.retry})
        self._worker = asyncio.create_task(self._work(), name="reconcile")

    def _look_at_all(self, leave: Collection[str]) -> None:
        """Queue what is PENDING or DELETING. One unreadable record ends the look before it has begun."""
        if not any(names.is_unreadable(record.vm.spec) for record in self._records.values()):
            for uid, record in self._records.items():
                if record.vm.status.state in (PENDING, DELETING) and uid not in leave:
                    self._queue.put_nowait(uid)
        delay_s = max(RESYNC_S * self._config.time_scale, RESYNC_MIN_S)
        self._resync = asyncio.get_running_loop().call_later(delay_s, self._look_at_all, self._backing_off)

    async def stop(self) -> None:
        """Stop the worker, even during a boot."""
        for timer in (*self._backing_off.values(), *([self._resync] if self._resync else [])):
            timer.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def wake(self, uid: str) -> None:
        """Queue a microVM to be booted or deleted, unless nobody hears of it."""
        if not self._faults.stands(FaultKind.CONTAINERD_RESTARTED):
            self._queue.put_nowait(uid)

    def preload(self, image: str) -> None:
        """Mark an image as pulled and unpacked."""
        self._cached.add(image)

    @property
    def cached(self) -> list[str]:
        """The images that are pulled."""
        return sorted(self._cached)

    def save(self, record: StoredMicroVm) -> None:
        """Save a microVM with a new version."""
        record.vm.version += 1
        self._disk.save(record)

    async def _work(self) -> None:
        while True:
            record = self._records.get(await self._queue.get())
            if record is None or record.uid in self._backing_off or names.never_ends(record.vm.spec):
                continue
            if names.is_unreadable(record.vm.spec):
                continue
            if record.vm.status.state == PENDING:
                await self._reconcile(record)
            if record.vm.status.state == DELETING and record.uid not in self._backing_off:
                await self._delete(record)

    async def _reconcile(self, record: StoredMicroVm) -> None:
        status = record.vm.status
        booted = await self._boot(record)
        if status.state == DELETING and self._faults.strikes(FaultKind.LOSE_DELETE):
            run(record.vm)  # the save of the boot's end has the same version as the Delete's, and comes later
            self._disk.save(record)
            return
        if status.state != PENDING:
            return  # deleted meanwhile
        if booted:
            run(record.vm)
            self._disk.write_pid(record, DEAD_PID if self._faults.strikes(FaultKind.DEAD_VMM) else os.getpid())
            if record.accepted_s:
                self.stats.created_s[record.uid] = time.monotonic() - record.accepted_s
        else:
            status.retry += 1
            if status.retry > RETRIES_MAX:
                self.save(record)
                status.state = FAILED
            else:
                self._back_off(record)
        self.save(record)

    async def _boot(self, record: StoredMicroVm) -> bool:
        stats = self.stats
        stats.attempts += 1
        stats.running += 1
        stats.running_max = max(stats.running_max, stats.running)
        try:
            for image in images(record.vm.spec):
                if names.cannot_resolve(image):
                    return False
                await self._pull(image)
            if record.poisoned:
                self._die(PANIC_EXIT)
            await asyncio.sleep(self.draw_s(self._config.boot_mean_s))
        finally:
            stats.running -= 1
        works = not (self._is_cut_off() or names.cannot_boot(record.vm.spec))
        works = works and not self._faults.strikes(FaultKind.FAIL_BOOT)
        return works and self._chance.random() >= self._config.boot_failure_share

    def _is_cut_off(self) -> bool:
        return any(self._faults.stands(kind) for kind in (FaultKind.CONTAINERD_DOWN, FaultKind.CONTAINERD_FULL))

    async def _pull(self, image: str) -> None:
        if image in self._cached:
            return
        await asyncio.sleep(self.draw_s(self._config.pull_mean_s))
        self._cached.add(image)
        self.stats.pulls[image] = self.stats.pulls.get(image, 0) + 1

    async def _delete(self, record: StoredMicroVm) -> None:
        await asyncio.sleep(self.draw_s(self._config.delete_mean_s))
        if self._is_cut_off() or self._faults.strikes(FaultKind.FAIL_DELETE):
            record.vm.status.retry += 1
            self._back_off(record)
            self.save(record)
            return
        self._records.pop(record.uid, None)
        self._disk.remove(record)

    def _back_off(self, record: StoredMicroVm) -> None:
        """Do nothing about it for a while, not even delete it."""

        def end() -> None:
            del self._backing_off[record.uid]
            self.wake(record.uid)

        delay_s = record.vm.status.retry * RETRY_STEP_S * self._config.time_scale
        self._backing_off[record.uid] = asyncio.get_running_loop().call_later(delay_s, end)

    def draw_s(self, mean_s: float) -> float:
        """Draw a lognormal duration with this mean."""
        if mean_s == 0:
            return 0.0
        sigma = self._config.sigma
        return self._chance.lognormvariate(math.log(mean_s) - sigma * sigma / 2, sigma)
