"""Credentials are created and revoked by the leader. Each refusal says why and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from billet.core.access import SHARED, Credential, DropCredential, PutCredential, Role, conflict, invalid, locks_out
from billet.core.errors import InvalidRequest, PreconditionFailed
from billet.leader.ledger import Ledger
from billet.ports import Clock

log = structlog.get_logger()


class Credentials:
    """The credentials in one term. What is changed here counts at once on this server, and on all others soon."""

    def __init__(self, ledger: Ledger, clock: Clock, changed: Callable[[Iterable[Credential]], None]) -> None:
        """`changed` is told all credentials after each change: other servers learn of it from the store."""
        self._ledger = ledger
        self._clock = clock
        self._changed = changed
        self._changing = asyncio.Lock()

    def all(self) -> list[Credential]:
        """The credentials, by name."""
        return [credential for _, credential in sorted(self._ledger.state.credentials.items())]

    def expired(self, credential: Credential) -> bool:
        """Whether it is too late to use it."""
        return credential.expired(self._clock.now_s())

    async def create(self, wanted: Credential, expires_in_s: float, by: str) -> Credential:
        """Make a credential; `by` is the caller's name. The same request, sent again, changes nothing.

        Raises InvalidRequest, PreconditionFailed, StoreError.
        """
        if problem := invalid(wanted):
            raise InvalidRequest(problem)
        async with self._changing:
            known = self._ledger.state.credentials
            if problem := conflict(wanted, known.values()):
                raise PreconditionFailed(problem)
            if wanted.name in known:
                return known[wanted.name]
            if not known and by != SHARED.name and wanted.role is not Role.OPERATOR:
                raise PreconditionFailed(
                    "the first credential must be an operator's, or nobody could create another: run "
                    "`billet token create NAME --role operator`, and use its token from then on"
                )
            made = self._stamped(wanted, expires_in_s, by)
            await self._ledger.finish([PutCredential(made)])
            self._changed(self.all())
        log.info("credential created", name=made.name, role=str(made.role), namespaces=made.namespaces, by=by)
        return made

    async def revoke(self, name: str, by: str) -> None:
        """Remove a credential. Raises InvalidRequest, PreconditionFailed, StoreError."""
        async with self._changing:
            known = self._ledger.state.credentials
            if name not in known:
                raise InvalidRequest(f"no credential is named {name!r}; `billet token list` lists them")
            rest = [credential for credential in known.values() if credential.name != name]
            if by != SHARED.name and locks_out(rest, self._clock.now_s()):
                raise PreconditionFailed(
                    f"without {name} no operator would be left to create or revoke credentials: create another "
                    "operator first, or start the servers with --basic-auth-token and use that token"
                )
            await self._ledger.finish([DropCredential(name)])
            self._changed(self.all())
        log.info("credential revoked", name=name, by=by)

    def _stamped(self, wanted: Credential, expires_in_s: float, by: str) -> Credential:
        now_s = self._clock.now_s()
        return Credential(
            wanted.name, wanted.role, wanted.namespaces, wanted.exec, wanted.token_sha256, wanted.certificate,
            created_at_s=now_s, created_by=by, expires_at_s=now_s + expires_in_s if expires_in_s else 0.0,
        )  # fmt: skip
