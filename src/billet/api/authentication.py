"""Who is calling: tokens and certificates, checked against the credentials that this server last read of the store.

A call costs one hash and one look into a dict. The store is read every READ_S, so what an operator changes counts on
all servers soon after. A server that cannot reach the store goes on with what it last read, and the log says how old
that is. The leader looks at its own state besides (authorization.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from billet.core.access import SHARED, Credential
from billet.core.errors import StoreError, Unauthenticated, Unreachable
from billet.core.expiry import DAY_S, Urgency, urgency
from billet.log_throttle import LogThrottle
from billet.ports import Clock
from billet.wire.auth import NO_TOKEN, WRONG_TOKEN, hash_of, read_token
from billet.wire.secret import Secret

log = structlog.get_logger()

READ_S = 1.0  # between two looks at the store
NOBODY = ""  # the caller's name where no credentials are configured
UNREAD = "?"  # the caller's name on a server that does not know yet whether credentials are configured


class Authenticator:
    """Names the caller of each call that reaches this server."""

    def __init__(
        self,
        read: Callable[[], Awaitable[list[Credential]]],
        token: str,
        clock: Clock,
    ) -> None:
        """`read` is the store's `credentials`. `token` is --basic-auth-token, "" = it is not set."""
        self._read = read
        self._shared = Secret(token)
        self._clock = clock
        self._throttle = LogThrottle()
        self._read_at_s: float | None = None  # monotonic
        self._looks = 0  # at the store, that were begun
        self._newest = 0  # that look is in force; those begun before it are older
        self._warned: dict[str, Urgency] = {}  # by credential: what the log has said of its expiry
        self._by_name: dict[str, Credential] = {}
        self._by_hash: dict[str, Credential] = {}
        self._by_certificate: dict[str, Credential] = {}

    def identify(self, authorization: str | None, certificate: Sequence[str] = ()) -> str:
        """The caller's name: that of its credential, "shared", NOBODY or UNREAD. `certificate`: names in it.

        Raises Unauthenticated, and Unreachable while it cannot know.
        """
        if not self._by_name and not self._shared.lines:
            return NOBODY if self._read_at_s is not None else UNREAD
        shown = read_token(authorization)
        if shown is None:
            found = [self._by_certificate[name] for name in certificate if name in self._by_certificate]
            who = found[0] if found else None
        elif shown.basic and self._shared.accepts(shown.token):
            return SHARED.name
        else:
            who = self._by_hash.get(hash_of(shown.token))
        if who is None and self._read_at_s is None and (shown or certificate):
            raise Unreachable("this server has not read the credentials from the store yet; try again")
        if who is None:
            raise Unauthenticated(WRONG_TOKEN if shown and shown.basic else NO_TOKEN)
        if who.expired(self._clock.now_s()):
            raise Unauthenticated(expired(who))
        return who.name

    def find(self, name: str) -> Credential | None:
        """The credential of a caller, as last read."""
        return SHARED if name == SHARED.name else self._by_name.get(name)

    @property
    def age_s(self) -> float | None:
        """How long ago the credentials were read; None = never."""
        return None if self._read_at_s is None else self._clock.monotonic_s() - self._read_at_s

    async def run(self) -> None:
        """Keep reading, for ever."""
        while True:
            await self.read()
            await asyncio.sleep(READ_S)

    async def read(self) -> None:
        """Read the credentials once. A store that does not answer is logged."""
        self._looks = look = self._looks + 1
        try:
            found = await self._read()
        except StoreError as error:
            now_s, age_s = self._clock.monotonic_s(), self.age_s
            if self._throttle.should_log("store", "unreachable", now_s):
                age = "never read" if age_s is None else round(age_s, 1)
                log.warning("cannot read the credentials; those read last stay in force", age_s=age, error=error.text)
        else:
            self._throttle.recovered("store")
            if look > self._newest:  # else a later look was faster, or this server has changed them as the leader
                self._put(found, look)

    def take(self, credentials: Iterable[Credential]) -> None:
        """These are the credentials from now on: no look that has begun can know better."""
        self._put(credentials, self._looks)

    def _put(self, credentials: Iterable[Credential], look: int) -> None:
        before, first = len(self._by_name), self._read_at_s is None
        self._newest = look
        self._by_name = {credential.name: credential for credential in credentials}
        self._by_hash = {one.token_sha256: one for one in self._by_name.values() if one.token_sha256}
        self._by_certificate = {one.certificate: one for one in self._by_name.values() if one.certificate}
        self._read_at_s = self._clock.monotonic_s()
        if first or bool(before) != bool(self._by_name):
            self._tell()
        self._warn_of_expiry(self._clock.now_s())

    def _warn_of_expiry(self, now_s: float) -> None:
        """Log a month, a week and a day ahead that a credential expires, unless it was made for no longer."""
        before, self._warned = self._warned, {}
        for who in self._by_name.values():
            if not who.expires_at_s:
                continue
            left_s = who.expires_at_s - now_s
            self._warned[who.name] = how_soon = urgency(left_s)
            if how_soon not in (before.get(who.name, ""), urgency(who.expires_at_s - who.created_at_s)):
                log.warning("credential expires: create another and revoke this one", name=who.name,
                            renew=str(how_soon), days=round(left_s / DAY_S, 1))  # fmt: skip

    def _tell(self) -> None:
        if self._by_name:
            log.info("callers are named by credentials", credentials=len(self._by_name))
        elif self._shared.lines:
            log.info(
                "one token for all callers, with every right", setting="--basic-auth-token", names="billet token"
            )
        else:
            log.warning("callers are not authenticated: whoever reaches this server has every right",
                        settings="--basic-auth-token, or billet token create")  # fmt: skip


def expired(who: Credential) -> str:
    """The error of a caller whose credential has expired."""
    return f"credential {who.name} has expired: an operator makes a new one with `billet token create`"
