"""How servers show each other that they have forwarded a call (docs/adr/0033-the-secret-between-servers.md)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe

from billet.ports import Leader
from billet.wire.secret import Secret

EARLIER_S = 120.0  # an earlier version's calls in flight last no longer after its term


class Secrets:
    """This server's own secret, and the one to show to the leader."""

    def __init__(self, link_token: str, now_s: Callable[[], float]) -> None:
        self.own = token_urlsafe(32)
        self._link_token = Secret(link_token)
        self._now_s = now_s
        self._after_earlier = False  # the last leader was of an earlier version
        self._earlier_until_s = 0.0

    def to_show(self, leader: Leader) -> str:
        """What this leader accepts. Call it for each leader that is followed."""
        self._after_earlier = not leader.secret
        return leader.secret or _earlier(self._link_token.shown)

    def leads(self) -> None:
        """This server leads now. If the last leader was of an earlier version, its calls in flight may still come."""
        self._earlier_until_s = self._now_s() + EARLIER_S if self._after_earlier else 0.0
        self._after_earlier = False

    def accepts(self, shown: str) -> bool:
        """Whether a server has sent this."""
        given = shown.encode()
        if compare_digest(given, self.own.encode()):
            return True
        earlier = [_earlier(line).encode() for line in self._link_token.lines or ("",)]
        return self._now_s() < self._earlier_until_s and any(compare_digest(given, one) for one in earlier)


def _earlier(link_token: str) -> str:
    """What servers of earlier versions show."""
    return sha256(f"forwarded\0{link_token}".encode()).hexdigest()
