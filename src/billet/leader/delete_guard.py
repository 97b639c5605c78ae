"""A guard against mass deletion by tools that believe they talk to a single host."""

from __future__ import annotations

from billet.core.access import SHARED, Credential, Role
from billet.core.errors import TooManyDeletes
from billet.ports import Clock

WINDOW_S = 60.0
UID_CHARS = 64  # that are kept of a uid: real ones have 26, and a client may send 4 MiB


class DeleteGuard:
    """Bounds the microVMs that one caller deletes in a minute. A repeated Delete of one microVM counts once.

    Operators are not bounded; the shared token is, since old tools have it. The count begins anew with each leader.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        """`limit` 0 = no bound."""
        self._limit = limit
        self._clock = clock
        self._deleted: dict[str, dict[str, float]] = {}  # by caller: uid -> when first deleted, the oldest first

    def admit(self, who: Credential, uid: str) -> None:
        """Count a Delete. Raises TooManyDeletes, and counts it not, if there are too many."""
        if not self._limit or (who.role is Role.OPERATOR and who is not SHARED):
            return
        now_s = self._clock.monotonic_s()
        uid = uid[:UID_CHARS]
        deleted = self._deleted.setdefault(who.name, {})
        while deleted and now_s - (first_s := next(iter(deleted.values()))) >= WINDOW_S:
            del deleted[next(iter(deleted))]
        if uid in deleted:
            return
        if len(deleted) >= self._limit:
            left_s = WINDOW_S - (now_s - first_s)
            raise TooManyDeletes(
                f"{who.name} has deleted {len(deleted)} microVMs within a minute, as many as --deletes-per-minute "
                f"allows: the next in {left_s:.0f} s; an operator's credential has no such limit"
            )
        deleted[uid] = now_s
