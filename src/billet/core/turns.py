"""Whose large message is received next, when there is no memory for all of them at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from billet.core.shares import Shares

C = TypeVar("C")  # a connection
M = TypeVar("M")  # a call with a large message


class Turns(Generic[C, M]):
    """Lets calls with large messages have as many bytes as there are. `limit_bytes` 0 = no limit.

    Each connection has its share (Shares) and is served in the order of arrival; connections are served one after
    another. When nobody has anything, any message has its turn.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._held: Shares[C] = Shares(limit_bytes)
        self._sizes: dict[M, int] = {}  # of those that have had their turn
        self._waiting: OrderedDict[C, OrderedDict[M, int]] = OrderedDict()
        self.waiting = 0  # calls that wait

    @property
    def held_bytes(self) -> int:
        """What those may hold together that have had their turn."""
        return self._held.total

    def waits(self, connection: C, call: M) -> bool:
        """Whether a call waits for its turn."""
        return call in self._waiting.get(connection, ())

    def ask(self, connection: C, call: M, size: int) -> bool:
        """Whether a call may have a message of `size` bytes now. Otherwise it waits, and a later `leave` returns it.

        A call keeps what it had its turn for until it leaves; a message that is not larger needs no other turn.
        """
        if size <= self._sizes.get(call, 0):
            return True
        if connection not in self._waiting and self._grant(connection, call, size):
            return True
        calls = self._waiting.setdefault(connection, OrderedDict())
        self.waiting += call not in calls
        calls[call] = size
        return False

    def leave(self, connection: C, call: M) -> list[M]:
        """A call is over, or needs no turn any more. Returns those whose turn it is now."""
        if calls := self._waiting.get(connection):
            self._forget(connection, calls, call)
        size = self._sizes.pop(call, 0)
        if size:
            self._held.count(connection, -size)
        return list(self._next()) if size or calls is not None else []

    def _next(self) -> Iterator[M]:
        """Give turns, one connection after another, until no first of a connection fits."""
        left = len(self._waiting)
        while left:
            connection, calls = next(iter(self._waiting.items()))
            self._waiting.move_to_end(connection)
            call, size = next(iter(calls.items()))
            if self._grant(connection, call, size):
                self._forget(connection, calls, call)
                left = len(self._waiting)
                yield call
            else:
                left -= 1

    def _grant(self, connection: C, call: M, size: int) -> bool:
        more = size - self._sizes.get(call, 0)
        if self._held.total and not self._held.fits(connection, more):
            return False
        self._held.count(connection, more)
        self._sizes[call] = size
        return True

    def _forget(self, connection: C, calls: OrderedDict[M, int], call: M) -> None:
        self.waiting -= calls.pop(call, None) is not None
        if not calls:
            del self._waiting[connection]
