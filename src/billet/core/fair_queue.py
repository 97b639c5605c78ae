"""Whose create is carried out next when there are more than can be carried out at a time.

Each identity and namespace has a queue. Identities are served one after another, and so are the namespaces of each;
within a queue the order is that of arrival. While several create, none has more slots than half of those that are
free. So a busy namespace leaves slots for another one, and delays its create by what is in work, not by its queue.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from billet.core.shares import Shares

SLOT_BYTES = 262_144  # of a request, for which it takes one slot more
CALL_BYTES = 16_384  # that a create takes beside its request: its task, its call, its headers


class Key(NamedTuple):
    """Whose create it is."""

    identity: str  # "" = none is configured
    namespace: str

    def __str__(self) -> str:
        return f"namespace {self.namespace[:NAME_CHARS]!r}" + (f" of {self.identity!r}" if self.identity else "")


class Bounds(NamedTuple):
    """What is allowed at a time. 0 = no limit."""

    in_work: int  # creates that are carried out
    waiting: int  # creates that wait, of each identity and namespace
    held_bytes: int  # of all creates together, in work or waiting
    wait_s: float  # that a create waits
    shared: bool = True  # while several namespaces create, none has more slots than half of those that are free
    slow_s: float = 0.0  # after this time a create in work gives its slot to the next, whatever the others do


DEFAULT_BOUNDS = Bounds(in_work=16, waiting=2_000, held_bytes=128 << 20, wait_s=30.0, slow_s=5.0)
IDENTITY_TIMES = 3  # what all namespaces of one identity may hold, as a multiple of what is free: 3/4 if it is alone
NAME_CHARS = 64  # of a namespace, in a text: a client may have chosen one of 4 MiB
SLOT_TIMES = 0.5  # slots of one while several create, as a multiple of those that are free; one slot it may have
SEVERAL_S = 2.0  # since creates of more than one namespace were there
OVERTAKEN = 2  # a create is slow once this many times `in_work` others have ended since it began


@dataclass(eq=False, slots=True)
class Place:
    """One create's place: in the queue, then in work."""

    key: Key
    size: int  # of its request
    since_s: float

    @property
    def held_bytes(self) -> int:
        """What it counts for."""
        return self.size + CALL_BYTES

    @property
    def slots(self) -> int:
        """How many slots it takes: in work, a large request is in memory about ten times."""
        return 1 + self.size // SLOT_BYTES


class Refusal(Enum):
    """Why a create is not even queued."""

    QUEUE = "queue"  # too many creates of this identity and namespace wait
    BYTES = "bytes"  # the creates that are held have too many bytes


class Begun(NamedTuple):
    """When a create began."""

    at_s: float
    ended: int  # creates that had ended before


Queue = OrderedDict[Place, None]


class FairQueue:
    """The creates that wait and those in work. Takes the time as an argument, any clock that only grows."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._held: Shares[Key] = Shares(bounds.held_bytes)
        self._held_by_identity: Shares[str] = Shares(bounds.held_bytes, IDENTITY_TIMES)
        self._queues: OrderedDict[str, OrderedDict[str, Queue]] = OrderedDict()  # by identity, namespace
        self._waiting: Queue = OrderedDict()  # all that wait, in the order of arrival
        self._counts: Counter[Key] = Counter()  # that wait
        self._in_work: OrderedDict[Place, Begun] = OrderedDict()  # without the slow ones
        self._slow: set[Place] = set()
        self._slots: Shares[Key] = Shares(bounds.in_work, SLOT_TIMES)  # that are taken
        self._slots_by_identity: Shares[str] = Shares(bounds.in_work, SLOT_TIMES)
        self._ended = 0  # creates that were in work
        self._several_until_s = self._several_identities_until_s = float("-inf")

    @property
    def waiting(self) -> int:
        """How many creates wait."""
        return len(self._waiting)

    @property
    def in_work(self) -> int:
        """How many creates have a slot."""
        return len(self._in_work)

    @property
    def held_bytes(self) -> int:
        """What all creates count for."""
        return self._held.total

    def enter(self, place: Place) -> Refusal | None:
        """Put a create at the end of its queue, unless there is no room."""
        key = place.key
        if self._bounds.waiting and self._counts[key] >= self._bounds.waiting:
            return Refusal.QUEUE
        size = place.held_bytes
        if not (self._held.fits(key, size) and self._held_by_identity.fits(key.identity, size)):
            return Refusal.BYTES
        self._count_bytes(key, size)
        self._counts[key] += 1
        if len(self._held) > 1:
            self._several_until_s = place.since_s + SEVERAL_S
        if len(self._held_by_identity) > 1:
            self._several_identities_until_s = place.since_s + SEVERAL_S
        self._waiting[place] = None
        self._queues.setdefault(key.identity, OrderedDict()).setdefault(key.namespace, OrderedDict())[place] = None
        return None

    def next(self, now_s: float) -> Place | None:
        """The create that begins now; None if none waits or all slots are taken."""
        self._pass_by_slow_ones(now_s)
        if not self._queues or 0 < self._bounds.in_work <= self._slots.total:
            return None
        if (key := next(self._may_begin(now_s), None)) is None:
            return None
        place = next(iter(self._queues[key.identity][key.namespace]))
        self._to_the_end(key)
        self._take_out(place)
        self._in_work[place] = Begun(now_s, self._ended)
        self._count_slots(key, place.slots)
        return place

    def leave(self, place: Place) -> None:
        """A create has ended, or its clients have given it up."""
        if place in self._waiting:
            self._take_out(place)
        elif place in self._in_work or place in self._slow:
            self._ended += 1
            self._slow.discard(place)
            self._give_slots(place)
        self._count_bytes(place.key, -place.held_bytes)

    def late(self, now_s: float) -> list[Place]:
        """The creates that have waited for too long, taken out of their queues. They still have to leave."""
        found = []
        while self._bounds.wait_s and self._waiting:
            place = next(iter(self._waiting))
            if now_s < place.since_s + self._bounds.wait_s:
                break
            self._take_out(place)
            found.append(place)
        return found

    def due_s(self) -> float | None:
        """When `next` or `late` has something new, if nothing else happens; None = never."""
        if not self._waiting:
            return None
        times = []
        if self._bounds.wait_s:
            times.append(next(iter(self._waiting)).since_s + self._bounds.wait_s)
        if self._bounds.slow_s and self._in_work:
            times.append(next(iter(self._in_work.values())).at_s + self._bounds.slow_s)
        if self._slots.total < self._bounds.in_work:  # some may begin once nobody else creates
            times.append(max(self._several_until_s, self._several_identities_until_s))
        return min(times, default=None)

    def _pass_by_slow_ones(self, now_s: float) -> None:
        """Creates that are slow, because their hosts are, count no longer: they must not hold up all others.

        Slow is who was overtaken: then it is not the server that is slow. With nobody to compare with, time counts.
        """
        bounds = self._bounds
        while bounds.slow_s and self._in_work:
            place, begun = next(iter(self._in_work.items()))
            if self._ended - begun.ended < OVERTAKEN * bounds.in_work and now_s < begun.at_s + bounds.slow_s:
                break
            self._give_slots(place)
            self._slow.add(place)

    def _may_begin(self, now_s: float) -> Iterator[Key]:
        """Those whose turn it is. While several create, nobody has many slots.

        So the search passes by no more of them than there are slots.
        """
        several = self._bounds.shared and now_s < self._several_until_s
        several_identities = self._bounds.shared and now_s < self._several_identities_until_s
        for identity, namespaces in self._queues.items():
            if several_identities and not self._slots_by_identity.one_more(identity):
                continue
            for namespace in namespaces:
                if not several or self._slots.one_more(Key(identity, namespace)):
                    yield Key(identity, namespace)

    def _count_slots(self, key: Key, slots: int) -> None:
        self._slots.count(key, slots)
        self._slots_by_identity.count(key.identity, slots)

    def _count_bytes(self, key: Key, size: int) -> None:
        self._held.count(key, size)
        self._held_by_identity.count(key.identity, size)

    def _give_slots(self, place: Place) -> None:
        if place in self._in_work:
            del self._in_work[place]
            self._count_slots(place.key, -place.slots)

    def _to_the_end(self, key: Key) -> None:
        """An identity is served after all others, and so is a namespace of it."""
        self._queues.move_to_end(key.identity)
        self._queues[key.identity].move_to_end(key.namespace)

    def _take_out(self, place: Place) -> None:
        """Out of its queue, from wherever it stands."""
        identity, namespace = place.key
        namespaces = self._queues[identity]
        del namespaces[namespace][place]
        if not namespaces[namespace]:
            del namespaces[namespace]
        if not namespaces:
            del self._queues[identity]
        self._forget_waiting(place)

    def _forget_waiting(self, place: Place) -> None:
        del self._waiting[place]
        self._counts[place.key] -= 1
        if not self._counts[place.key]:
            del self._counts[place.key]
