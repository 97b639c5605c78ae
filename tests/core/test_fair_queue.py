"""Whose create is next: in order within a namespace, by turns between them, within all bounds."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billet.core.fair_queue import CALL_BYTES, SEVERAL_S, Bounds, FairQueue, Key, Place, Refusal
from billet.core.shares import Shares

FREE = Bounds(in_work=1, waiting=0, held_bytes=0, wait_s=0.0)
KEYS = [Key(identity, namespace) for identity in ("", "ci", "ops") for namespace in ("a", "b", "c")]


def queued(queue: FairQueue, key: Key, count: int, size: int = 0) -> list[Place]:
    places = [Place(key, size, 0.0) for _ in range(count)]
    assert not any(queue.enter(place) for place in places)
    return places


def order(queue: FairQueue) -> list[Place]:
    """All that wait, as they are carried out one after another."""
    done = []
    while place := queue.next(0.0):
        queue.leave(place)
        done.append(place)
    return done


def test_a_busy_namespace_delays_another_ones_create_by_one() -> None:
    """Broken on purpose (one queue for all, in the order of arrival): it is the 1,001st."""
    queue = FairQueue(FREE)
    queued(queue, Key("", "busy"), 1000)
    (calm,) = queued(queue, Key("", "calm"), 1)
    assert order(queue).index(calm) == 1


def test_an_identity_with_many_namespaces_gets_no_more_than_one_with_a_single_one() -> None:
    """Broken on purpose (turns by namespace only): the second create of the calm one is the 102nd."""
    queue = FairQueue(FREE)
    for n in range(100):
        queued(queue, Key("busy", f"ns-{n}"), 5)
    calm = queued(queue, Key("calm", "ns"), 3)
    done = order(queue)
    assert [done.index(place) for place in calm] == [1, 3, 5]


def test_a_create_that_takes_long_gives_its_slot_to_the_next_one() -> None:
    """Broken on purpose (a slot is kept until the end): hosts that hang stop the creates on all others."""
    queue = FairQueue(FREE._replace(slow_s=1.0))
    slow, next_one, last = queued(queue, KEYS[0], 3)
    assert queue.next(10.0) is slow
    assert queue.next(10.9) is None
    assert queue.due_s() == 11.0
    assert queue.next(11.0) is next_one
    queue.leave(slow)  # its slot is the next one's already
    assert queue.next(11.5) is None
    queue.leave(next_one)
    assert queue.next(11.5) is last


def test_large_creates_take_several_slots_and_a_small_one_of_another_namespace_begins_beside_them() -> None:
    """Broken on purpose (each takes one): 16 creates of 3 MB are copied from buffer to buffer at the same time."""
    queue = FairQueue(FREE._replace(in_work=16))
    large = queued(queue, Key("", "busy"), 20, 3_000_000)
    begun = [queue.next(0.0), queue.next(0.0), queue.next(0.0)]
    assert begun == [*large[:2], None]
    small, later = queued(queue, Key("", "calm"), 2)
    assert queue.next(0.0) is None
    queue.leave(large[0])
    assert [queue.next(0.0), queue.next(0.0)] == [small, None], "and no third large one"
    queue.leave(large[1])
    assert [queue.next(0.0), queue.next(0.0)] == [large[2], None]
    queue.leave(small)
    assert [queue.next(0.0), queue.next(0.0)] == [later, None]


def test_while_several_namespaces_create_a_busy_one_has_half_as_many_slots_as_are_free() -> None:
    """A create takes as long as all that are in work. Broken on purpose (it may have all): a calm one's waits."""
    queue = FairQueue(FREE._replace(in_work=16))
    busy = queued(queue, Key("", "busy"), 40)
    begun = [queue.next(0.0) for _ in range(17)]
    assert begun == [*busy[:16], None]
    (calm,) = queued(queue, Key("", "calm"), 1)
    queue.leave(busy[0])
    assert [queue.next(0.0), queue.next(0.0)] == [calm, None]
    for place in busy[1:11]:
        queue.leave(place)
        assert queue.next(0.0) is None
    queue.leave(busy[11])
    assert [queue.next(0.0), queue.next(0.0)] == [busy[16], None], "it has 5, and 10 are free"
    queue.leave(calm)
    assert queue.next(0.0) is None
    queue.leave(busy[12])
    assert [queue.next(SEVERAL_S - 0.1), queue.next(SEVERAL_S - 0.1)] == [busy[17], None]
    assert queue.next(SEVERAL_S) is busy[18], "the other one has not come again"


def test_an_identity_has_no_more_slots_for_using_many_namespaces() -> None:
    """Broken on purpose (shares by namespace only): of 16 slots one identity has 15, and the other one 1."""
    queue = FairQueue(FREE._replace(in_work=16))
    for number in range(20):
        queued(queue, Key("ci", f"ci-{number}"), 5)
    queued(queue, Key("ops", "prod"), 20)
    begun = [place.key.identity for _ in range(20) if (place := queue.next(0.0))]
    assert Counter(begun) == {"ci": 4, "ops": 4}


def test_slots_that_were_left_for_others_are_used_once_these_have_gone() -> None:
    """Broken on purpose (nothing is due): they stay free until a create ends."""
    queue = FairQueue(FREE._replace(in_work=16))
    queued(queue, Key("", "busy"), 40)
    (calm,) = queued(queue, Key("", "calm"), 1)
    while queue.next(0.0):
        pass
    queue.leave(calm)
    assert queue.due_s() == SEVERAL_S
    assert queue.next(SEVERAL_S) is not None


def test_a_create_that_is_overtaken_gives_its_slot_away_long_before() -> None:
    """Broken on purpose (only time counts): creates on a host that hangs take all slots within a second."""
    queue = FairQueue(FREE._replace(in_work=2, slow_s=5.0))
    slow, *others = queued(queue, KEYS[0], 10)
    assert queue.next(0.0) is slow
    for other in others[:4]:  # one after another in the second slot
        assert queue.next(0.0) is other
        assert queue.next(0.0) is None
        queue.leave(other)
    assert (queue.next(0.0), queue.next(0.0), queue.next(0.0)) == (others[4], others[5], None)


def test_a_create_that_waited_too_long_is_taken_out_and_frees_its_bytes_when_it_leaves() -> None:
    queue = FairQueue(FREE._replace(wait_s=30.0))
    first, second = Place(KEYS[0], 100, 0.0), Place(KEYS[1], 100, 5.0)
    for place in (Place(KEYS[0], 0, 0.0), first, second):
        queue.enter(place)
    assert queue.next(0.0) is not first
    assert queue.due_s() == 30.0
    assert queue.late(29.9) == []
    assert queue.late(30.0) == [first]
    assert (queue.waiting, queue.held_bytes) == (1, 200 + 3 * CALL_BYTES)
    queue.leave(first)
    assert queue.held_bytes == 100 + 2 * CALL_BYTES


def test_more_creates_than_a_queue_takes_are_refused_and_other_queues_are_free() -> None:
    queue = FairQueue(FREE._replace(waiting=2))
    queued(queue, KEYS[0], 2)
    assert queue.enter(Place(KEYS[0], 0, 0.0)) is Refusal.QUEUE
    assert queue.enter(Place(KEYS[1], 0, 0.0)) is None


def test_one_namespaces_bytes_leave_room_for_another_ones() -> None:
    """Broken on purpose (only the sum is bounded): the small create of the calm namespace is refused."""
    queue = FairQueue(FREE._replace(held_bytes=64 << 20))
    refused = 0
    for _ in range(300):
        refused += queue.enter(Place(Key("", "busy"), 3 << 20, 0.0)) is Refusal.BYTES
    assert refused == 300 - 11
    assert queue.enter(Place(Key("", "calm"), 4 << 20, 0.0)) is None


def test_one_identitys_bytes_in_many_namespaces_leave_room_for_another_one() -> None:
    """Broken on purpose (shares by namespace only): it holds 127 of the 128 MiB, and the calm one is refused."""
    queue = FairQueue(FREE._replace(held_bytes=128 << 20))
    for n in range(5_000):
        queue.enter(Place(Key("busy", f"ns-{n}"), 3 << 20, 0.0))
    assert 90 << 20 < queue.held_bytes < 100 << 20
    assert queue.enter(Place(Key("calm", "ns"), 4 << 20, 0.0)) is None


@given(
    st.sampled_from([1, 3]),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.booleans()), max_size=60),
)
def test_nobody_holds_more_than_was_free_and_all_together_stay_below_the_limit(
    times: int, steps: list[tuple[int, int, bool]]
) -> None:
    shares, taken = Shares[int](100, times), defaultdict[int, list[int]](list)
    for who, size, gives in steps:
        if gives and taken[who]:
            shares.count(who, -taken[who].pop())
            continue
        total, own = sum(map(sum, taken.values())), sum(taken[who])
        fits = own + size <= times * (100 - total) and total + size <= 100
        assert shares.take(who, size) is fits
        if fits:
            taken[who].append(size)
        assert shares.total == sum(map(sum, taken.values())) <= 100
        assert shares.held(who) == sum(taken[who])


def one_more(has: int, free: int) -> bool:
    return not has or has + 1 <= free / 2


class Crowd(RuleBasedStateMachine):
    """Creates come, begin, end and are given up, in any order; the queue is compared with a simple account of it."""

    bounds = Bounds(in_work=3, waiting=4, held_bytes=20 * CALL_BYTES, wait_s=5.0, slow_s=2.0)

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(self.bounds)
        self.now_s = 0.0
        self.several_until_s = self.several_identities_until_s = 0.0
        self.waiting = defaultdict[Key, deque[Place]](deque)
        self.work: dict[Place, tuple[float, int]] = {}  # since when, and how many had ended before
        self.ended = 0
        self.taken_out: list[Place] = []
        self.passed = dict.fromkeys(KEYS, 0)  # creates of others that began since its first one waits

    @rule(key=st.sampled_from(KEYS), size=st.sampled_from([0, CALL_BYTES, 5 * CALL_BYTES]))
    def enter(self, key: Key, size: int) -> None:
        place = Place(key, size, self.now_s)
        if self.queue.enter(place) is None:
            self.waiting[key].append(place)
            held = {one.key for queue in self.waiting.values() for one in queue}
            held |= {one.key for one in (*self.work, *self.taken_out)}
            if len(held) > 1:
                self.several_until_s = self.now_s + SEVERAL_S
            if len({one.identity for one in held}) > 1:
                self.several_identities_until_s = self.now_s + SEVERAL_S

    @rule()
    def begin(self) -> None:
        place = self.queue.next(self.now_s)
        counted = [
            place for place, (since_s, ended) in self.work.items()
            if self.now_s < since_s + self.bounds.slow_s and self.ended - ended < 2 * self.bounds.in_work
        ]  # fmt: skip
        free = self.bounds.in_work - len(counted)
        several = self.now_s < self.several_until_s
        has = Counter(place.key for place in counted)
        identities = Counter(place.key.identity for place in counted)
        several_identities = self.now_s < self.several_identities_until_s
        may = [
            key
            for key, queue in self.waiting.items()
            if queue and free and (not several or one_more(has[key], free))
            and (not several_identities or one_more(identities[key.identity], free))
        ]  # fmt: skip
        assert (place is None) == (not may)
        assert place is None or place.key in may
        if place:
            assert self.waiting[place.key].popleft() is place, "in order within a queue"
            self.work[place] = self.now_s, self.ended
            self.passed[place.key] = 0
            for key in KEYS:
                waits = self.waiting[key] and key != place.key and not identities[key.identity]
                self.passed[key] = self.passed[key] + 1 if waits else 0
                # At most each other identity before it for each of its own identity's namespaces: 3 and 3 of them.
                assert self.passed[key] <= len(KEYS) - 1, "no queue starves"

    @precondition(lambda self: self.work or any(self.waiting.values()) or self.taken_out)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiting = [place for queue in self.waiting.values() for place in queue]
        place = data.draw(st.sampled_from([*self.work, *waiting, *self.taken_out]))
        self.queue.leave(place)
        self.ended += bool(self.work.pop(place, None))
        if place in self.taken_out:
            self.taken_out.remove(place)
        elif place in waiting:
            self.waiting[place.key].remove(place)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for place in self.queue.late(self.now_s):
            assert self.now_s >= place.since_s + self.bounds.wait_s
            self.waiting[place.key].remove(place)
            self.taken_out.append(place)
        assert all(
            self.now_s < place.since_s + self.bounds.wait_s for queue in self.waiting.values() for place in queue
        )

    @invariant()
    def within_the_bounds(self) -> None:
        waiting = [place for queue in self.waiting.values() for place in queue]
        held = sum(place.held_bytes for place in (*waiting, *self.work, *self.taken_out))
        assert self.queue.held_bytes == held <= self.bounds.held_bytes
        assert self.queue.waiting == len(waiting)
        assert all(len(queue) <= self.bounds.waiting for queue in self.waiting.values())
        assert self.queue.in_work <= self.bounds.in_work


TestCrowd = Crowd.TestCase
