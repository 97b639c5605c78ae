"""Whose large message is received next, when there is no memory for all of them at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from billet.core.shares import Shares

C = TypeVar("C")  # a client
M = TypeVar("M")  # a call with a large message


class Turns(Generic[C, M]):
    """Lets calls with large messages have as many bytes as there are. `limit_bytes` 0 = no limit.

    Each client has its share (Shares) and is served in the order of arrival; clients are served one after another.
    A client that has nothing is passed by nobody, however large its message is.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._held: Shares[C] = Shares(limit_bytes)
        self._sizes: dict[M, int] = {}  # of those that have had their turn
        self._waiting: OrderedDict[C, OrderedDict[M, int]] = OrderedDict()
        self._first: C | None = None  # has nothing, and its message does not fit yet: nobody else gets a turn before
        self.waiting = 0  # calls that wait

    @property
    def held_bytes(self) -> int:
        """What those may hold together that have had their turn."""
        return self._held.total

    def ask(self, client: C, call: M, size: int) -> bool:
        """Whether a call may have its message of `size` bytes now. Otherwise it waits until a `leave` returns it."""
        if self._first is None and client not in self._waiting and self._grant(client, call, size):
            return True
        self._waiting.setdefault(client, OrderedDict())[call] = size
        self.waiting += 1
        return False

    def leave(self, client: C, call: M) -> list[M]:
        """A call is over, or needs no turn any more. Returns those whose turn it is now."""
        if calls := self._waiting.get(client):
            self._forget(client, calls, call)
        size = self._sizes.pop(call, 0)
        if size:
            self._held.count(client, -size)
        return list(self._next()) if size or calls is not None else []

    def _next(self) -> Iterator[M]:
        """Give turns, one client after another, until none fits, or one has to come first."""
        self._first = None
        left = len(self._waiting)
        while left:
            client, calls = next(iter(self._waiting.items()))
            call, size = next(iter(calls.items()))
            if self._grant(client, call, size):
                self._waiting.move_to_end(client)
                self._forget(client, calls, call)
                left = len(self._waiting)
                yield call
            elif not self._held.held(client):
                self._first = client
                return
            else:
                self._waiting.move_to_end(client)
                left -= 1

    def _grant(self, client: C, call: M, size: int) -> bool:
        if self._held.total and not self._held.fits(client, size):
            return False
        self._held.count(client, size)
        self._sizes[call] = size
        return True

    def _forget(self, client: C, calls: OrderedDict[M, int], call: M) -> None:
        self.waiting -= calls.pop(call, None) is not None
        if not calls:
            del self._waiting[client]
