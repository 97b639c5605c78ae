"""The one reconcile worker of a flintlockd: it boots and deletes microVMs one after another.

That a host boots serially is why its count of PENDING microVMs predicts how long the next one will take.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from billet.fake.disk import Disk
from billet.fake.faults import Faults
from billet.fake.model import DELETING, FAILED, PENDING, StoredMicroVm, images, run
from billet.fake.settings import FakeConfig

RETRY_STEP_S = 20.0  # retry n waits n times this
RETRIES_MAX = 10
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
        self._timers: set[asyncio.TimerHandle] = set()
        self._worker: asyncio.Task[None] | None = None
        self.stats = BootStats()

    def start(self) -> None:
        """Start with a resync: microVMs that were PENDING or DELETING before a restart are queued."""
        for record in self._records.values():
            if record.vm.status.state in (PENDING, DELETING):
                self._queue.put_nowait(record.uid)
        self._worker = asyncio.create_task(self._work(), name="reconcile")

    async def stop(self) -> None:
        """Stop the worker, even during a boot."""
        for timer in self._timers:
            timer.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def wake(self, uid: str) -> None:
        """Queue a microVM to be booted or deleted."""
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
            if record is None:
                continue
            if record.vm.status.state == PENDING:
                await self._reconcile(record)
            if record.vm.status.state == DELETING:
                await self._delete(record)

    async def _reconcile(self, record: StoredMicroVm) -> None:
        status = record.vm.status
        if status.retry > RETRIES_MAX:
            status.state = FAILED
            self.save(record)
            return
        booted = await self._boot(record)
        if status.state != PENDING:
            return  # deleted meanwhile
        if booted:
            run(record.vm)
            if record.accepted_s:
                self.stats.created_s[record.uid] = time.monotonic() - record.accepted_s
        else:
            status.retry += 1
            self._retry_later(record.uid, status.retry * RETRY_STEP_S * self._config.time_scale)
        self.save(record)

    async def _boot(self, record: StoredMicroVm) -> bool:
        stats = self.stats
        stats.attempts += 1
        stats.running += 1
        stats.running_max = max(stats.running_max, stats.running)
        try:
            for image in images(record.vm.spec):
                await self._pull(image)
            if record.poisoned:
                self._die(PANIC_EXIT)
            await asyncio.sleep(self.draw_s(self._config.boot_mean_s))
        finally:
            stats.running -= 1
        return not self._faults.boot_fails() and self._chance.random() >= self._config.boot_failure_share

    async def _pull(self, image: str) -> None:
        if image in self._cached:
            return
        await asyncio.sleep(self.draw_s(self._config.pull_mean_s))
        self._cached.add(image)
        self.stats.pulls[image] = self.stats.pulls.get(image, 0) + 1

    async def _delete(self, record: StoredMicroVm) -> None:
        await asyncio.sleep(self.draw_s(self._config.delete_mean_s))
        self._records.pop(record.uid, None)
        self._disk.remove(record.uid)

    def _retry_later(self, uid: str, delay_s: float) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            self._queue.put_nowait(uid)

        timer = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(timer)

    def draw_s(self, mean_s: float) -> float:
        """Draw a lognormal duration with this mean."""
        if mean_s == 0:
            return 0.0
        sigma = self._config.sigma
        return self._chance.lognormvariate(math.log(mean_s) - sigma * sigma / 2, sigma)
