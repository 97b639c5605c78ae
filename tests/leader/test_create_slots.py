"""Creates wait for their slots, are refused with a reason, and leave at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from structlog.testing import capture_logs

from billet.api.metrics import exposition
from billet.core.errors import Code, Overloaded
from billet.core.fair_queue import Bounds, Key
from billet.core.metadata import RETRY_PUSHBACK
from billet.leader.create_slots import CreateSlots
from tests.cluster.clients import eventually

BUSY, CALM = Key("", "busy"), Key("", "calm")
BOUNDS = Bounds(in_work=1, waiting=3, held_bytes=0, wait_s=0.0)


class Works:
    """Creates that work until they are told to end, by name."""

    def __init__(self, slots: CreateSlots) -> None:
        self._slots = slots
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def create(self, name: str, key: Key, size: int = 0) -> asyncio.Task[None]:
        return asyncio.create_task(self._create(name, key, size))

    async def _create(self, name: str, key: Key, size: int) -> None:
        async with self._slots.slot(key, size):
            self.begun.append(name)
            await self._ends.setdefault(name, asyncio.Event()).wait()

    def end(self, name: str) -> None:
        self._ends.setdefault(name, asyncio.Event()).set()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # step by step of the event loop
            await asyncio.sleep(0)


async def test_a_create_of_another_namespace_begins_after_one_of_the_busy_one() -> None:
    slots = CreateSlots(BOUNDS, "create")
    works = Works(slots)
    tasks = [works.create(f"busy-{n}", BUSY) for n in range(4)]
    await until(lambda: slots.queue.waiting == 3)
    tasks.append(works.create("calm", CALM))
    for name in ("busy-0", "busy-1", "calm", "busy-2", "busy-3"):
        await until(lambda name=name: name in works.begun)  # type: ignore[misc]
        works.end(name)
    await asyncio.gather(*tasks)
    assert works.begun.index("calm") == 2
    assert (slots.queue.in_work, slots.queue.waiting, slots.queue.held_bytes) == (0, 0, 0)


async def test_a_create_alone_begins_without_waiting_for_the_event_loop() -> None:
    slots = CreateSlots(BOUNDS, "create")
    work = slots.slot(CALM, 0)
    with pytest.raises(StopIteration):  # it has ended, and has never yielded to the loop
        work.__aenter__().send(None)
    await work.__aexit__(None, None, None)


async def test_one_that_is_given_up_leaves_at_once_and_frees_its_bytes() -> None:
    """Broken on purpose (it leaves when its slot comes): the bytes of 1,000 clients that left stay in memory."""
    slots = CreateSlots(BOUNDS, "create")
    works = Works(slots)
    first = works.create("first", BUSY, 100)
    await until(lambda: works.begun == ["first"])
    held_bytes = slots.queue.held_bytes
    second, third = works.create("second", BUSY, 1 << 20), works.create("third", BUSY)
    await until(lambda: slots.queue.waiting == 2)
    second.cancel()
    await until(second.done)
    assert slots.queue.waiting == 1
    assert slots.queue.held_bytes == 2 * held_bytes - 100
    works.end("first")
    works.end("third")
    await asyncio.gather(first, third)
    assert works.begun == ["first", "third"]


async def test_one_that_is_given_up_just_as_its_slot_comes_passes_it_on() -> None:
    """Broken on purpose (only those in the queue leave): the slot is lost, and nothing is created any more."""
    slots = CreateSlots(BOUNDS, "create")
    works = Works(slots)
    tasks = [works.create(name, BUSY) for name in ("first", "second", "third")]
    await until(lambda: slots.queue.waiting == 2)
    works.end("first")
    await until(tasks[0].done)  # the second has its slot, and has not run yet
    tasks[1].cancel()
    await until(lambda: "third" in works.begun)
    works.end("third")
    await tasks[2]
    assert "second" not in works.begun


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        (BOUNDS._replace(waiting=1), "--create-queue"),
        (BOUNDS._replace(held_bytes=4 * 16_384), "--create-memory-mib"),
        (BOUNDS._replace(wait_s=0.001), "--create-wait-s"),
    ],
)
async def test_a_refusal_says_why_that_nothing_was_created_and_when_to_try_again(bounds: Bounds, says: str) -> None:
    """Broken on purpose (no timer for the longest wait): the last one waits for ever."""
    slots = CreateSlots(bounds, "create")
    works = Works(slots)
    first = works.create("first", BUSY)
    await until(lambda: works.begun == ["first"])
    rest = [works.create(str(n), BUSY) for n in range(3)]
    await eventually(lambda: any(task.done() for task in rest))
    error = next(task.exception() for task in rest if task.done())
    assert isinstance(error, Overloaded)
    assert error.code == Code.UNAVAILABLE
    assert says in error.text
    assert "namespace 'busy'" in error.text
    assert "nothing was created; try again in" in error.text
    assert 1000 <= int(dict(error.trailers)[RETRY_PUSHBACK]) < 2000
    for task in (first, *rest):
        task.cancel()
    await asyncio.gather(first, *rest, return_exceptions=True)
    assert slots.queue.held_bytes == 0


async def test_a_namespace_in_a_refusal_is_short_and_does_not_say_that_a_microvm_is_gone() -> None:
    """Broken on purpose (the namespace as it came): 4 MiB of it in the log, and the words "not found"."""
    slots = CreateSlots(BOUNDS._replace(held_bytes=1), "create")
    with capture_logs() as lines, pytest.raises(Overloaded) as caught:
        async with slots.slot(Key("ci", "not found " + 4_000_000 * "x"), 0):
            pass
    assert "not found" not in caught.value.text
    assert len(str(lines)) < 1000


def test_on_the_loop_of_the_server_those_that_have_waited_too_long_are_refused_together() -> None:
    """Broken on purpose (the timer is asked when it goes off): uvloop's does not know if that is now."""

    async def crowd() -> list[BaseException | None]:
        works = Works(CreateSlots(BOUNDS._replace(waiting=0, wait_s=0.01), "create"))
        first = works.create("first", BUSY)
        rest = []
        for n in range(300):  # they come less than a millisecond apart
            rest.append(works.create(str(n), BUSY))
            await asyncio.sleep(0)
        answers = await asyncio.gather(*rest, return_exceptions=True)
        works.end("first")
        await first
        return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert {type(answer) for answer in runner.run(crowd())} == {Overloaded}


async def test_a_create_that_takes_long_is_overtaken() -> None:
    """Broken on purpose (no timer for slow creates): nothing begins until the slow one ends."""
    slots = CreateSlots(BOUNDS._replace(slow_s=0.001), "create")
    works = Works(slots)
    tasks = [works.create(name, BUSY) for name in ("slow", "next")]
    await eventually(lambda: works.begun == ["slow", "next"])
    works.end("slow")
    works.end("next")
    await asyncio.gather(*tasks)


async def test_the_metrics_show_what_waits_and_what_was_refused() -> None:
    slots = CreateSlots(BOUNDS._replace(waiting=2), "create")
    works = Works(slots)
    tasks = [works.create(str(n), BUSY) for n in range(4)]
    await until(lambda: slots.refused > 0)
    shown = exposition(None, passing=slots).decode()
    for line in ('in_work{at="server"} 1.0', 'waiting{at="server"} 2.0', 'refused_total{at="server"} 1.0'):
        assert f"billet_creates_{line}" in shown
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
