"""Every error that Billet raises on purpose, and the gRPC code by which a client sees it.

BilletError
├── InvalidRequest        INVALID_ARGUMENT     the request cannot be right on any host
├── Unauthenticated       UNAUTHENTICATED      no token, or a wrong one
├── NoRoom                RESOURCE_EXHAUSTED   every host said no; the text counts the reasons
├── Refused               FAILED_PRECONDITION  what an operator wants would do harm now; the text says what would help
├── Away                  UNAVAILABLE          a host does not answer; try again
│   └── LeaderLost        UNAVAILABLE          the leader does not answer, or leads no longer; ask the next one
├── Uncertain             UNAVAILABLE          the outcome of a create is not known yet; it is being settled
├── HostVerdict           (the host's own)     flintlockd's answer, passed on to the letter
├── StoreError            UNAVAILABLE          the store cannot be used now
│   ├── Fenced            UNAVAILABLE          this term has ended; another leader writes now
│   ├── OutcomeUnknown    UNAVAILABLE          a commit may or may not have happened
│   └── StoreCorrupt      UNAVAILABLE          the store holds what Billet cannot read
└── ConfigError           (exit code 2)        a setting is wrong; the text says how to mend it

The words "not found" make clients create a microVM again (docs/compatibility.md), so they occur only in
flintlockd's own verdicts and in the one answer that Billet has checked on every host.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The gRPC status codes that Billet uses, by their numbers on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class BilletError(Exception):
    """The root. `text` is what a person or a client reads."""

    code: Code = Code.INTERNAL

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class InvalidRequest(BilletError):
    """The request cannot be right on any host."""

    code = Code.INVALID_ARGUMENT


class Unauthenticated(BilletError):
    """No token, or a wrong one."""

    code = Code.UNAUTHENTICATED


class NoRoom(BilletError):
    """Every host said no."""

    code = Code.RESOURCE_EXHAUSTED


class PreconditionFailed(BilletError):
    """What an operator wants would do harm now."""

    code = Code.FAILED_PRECONDITION


class Away(BilletError):
    """Somebody who is needed does not answer."""

    code = Code.UNAVAILABLE


class LeaderLost(Away):
    """The leader does not answer, or leads no longer. Nothing is known of what was asked."""


class Uncertain(BilletError):
    """A create may have happened; it is being settled, and never tried on a second host."""

    code = Code.UNAVAILABLE


class HostVerdict(BilletError):
    """flintlockd's own answer, with its own code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.status = code


class StoreError(BilletError):
    """The store cannot be used now."""

    code = Code.UNAVAILABLE


class StoreAway(StoreError):
    """The store does not answer, and may again later. What was asked may have happened or not."""


class StaleTerm(StoreError):
    """The term has ended."""


class OutcomeUnknown(StoreError):
    """A commit may or may not have happened."""


class StoreCorrupt(StoreError):
    """The store holds what Billet cannot read."""


class ConfigError(BilletError):
    """A setting is wrong."""
