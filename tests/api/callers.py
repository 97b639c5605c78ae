"""Authenticators for tests that have no store."""

from __future__ import annotations

from billet.api.authentication import Authenticator
from billet.core.access import Credential
from billet.process import SystemClock


def callers(token: str = "", *credentials: Credential) -> Authenticator:
    """One that has read these credentials. `token` is --basic-auth-token."""

    async def read() -> list[Credential]:
        return list(credentials)

    made = Authenticator(read, token, SystemClock())
    made.take(credentials)
    return made
