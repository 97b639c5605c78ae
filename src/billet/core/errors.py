"""Every error that Billet raises on purpose, and the gRPC code that a client sees.

BilletError                     INTERNAL
├── InvalidRequest              INVALID_ARGUMENT     no host can accept this request
├── Unauthenticated             UNAUTHENTICATED      the token is missing or wrong
├── PermissionDenied            PERMISSION_DENIED    the caller's credential lacks a right; the text says which
├── NoRoom                      RESOURCE_EXHAUSTED   no host has room, or the namespace's quota is used up
├── TooManyDeletes              RESOURCE_EXHAUSTED   the caller deletes more microVMs than --deletes-per-minute
├── PreconditionFailed          FAILED_PRECONDITION  not possible in the present state; the text says what would help
├── Cancelled                   CANCELLED            the client gave up; nothing was created for it
├── Unimplemented               UNIMPLEMENTED        the server does not know the method
├── Unreachable                 UNAVAILABLE          a required component is not responding; try again
│   ├── LeaderLost              UNAVAILABLE          the leader is not responding or was replaced; ask the next leader
│   └── NotSent                 UNAVAILABLE          the host was not connected, so the order was never sent
├── Overloaded                  UNAVAILABLE          too much is asked for at once; the text says what was not done
├── CreateOutcomeUnknown        UNAVAILABLE          a microVM may have been created; Billet is finding out
├── DeleteNotRecorded           UNAVAILABLE          a host deletes the microVM; the store has refused the record
├── HostVerdict                 UNKNOWN              flintlockd's answer, word for word; `status` is its own code
├── StoreError                  UNAVAILABLE          the store refused; nothing was written
│   ├── StoreUnreachable        UNAVAILABLE          the store did not answer; the request may have taken effect
│   ├── StoreFull               UNAVAILABLE          etcd is at its quota and takes no writes
│   ├── StoreCorrupt            UNAVAILABLE          the store holds data that Billet cannot read
│   ├── StaleTerm               UNAVAILABLE          this leader's term has ended; nothing was written
│   ├── CommitOutcomeUnknown    UNAVAILABLE          a commit may or may not have taken effect
│   ├── EtcdTokenExpired        UNAVAILABLE          etcd no longer accepts its login token; log in again
│   └── HistoryCompacted        UNAVAILABLE          etcd no longer has the revisions that were asked for; load anew
└── ConfigError                 INTERNAL             a setting is wrong; commands exit with code 2

The code of a class never changes after it is raised. `tests/core/test_errors.py` checks this tree.

Clients create a microVM again when an error says "not found" (docs/compatibility.md). Billet therefore uses these
words only in flintlockd's own verdicts and in answers that it has checked on every host. They are written here and
nowhere else in src/; only fake/ has its own copy, since it imitates another program.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from billet.core.metadata import RETRY_PUSHBACK, Metadata

# flintlockd has one code (UNKNOWN) for every failure. Only these words say that a microVM does not exist.
NOT_FOUND = "not found"

NOTHING_WRITTEN = "; nothing was written"


class Code(IntEnum):
    """The gRPC status codes that Billet uses, by their numbers on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


def says_not_found(text: str) -> bool:
    """Whether a flintlockd says that it has no such microVM."""
    return NOT_FOUND in text


def without_not_found(text: str) -> str:
    """The text of a failed create without those words: to a client they would say that a microVM is gone."""
    return text.replace(NOT_FOUND, "missing")


class BilletError(Exception):
    """The root of all errors. `text` is what a user or a client reads."""

    code: ClassVar[Code] = Code.INTERNAL
    trailers: Metadata = ()  # metadata that a client gets with it

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def status(self) -> int:
        """The number of the gRPC status that a client gets."""
        return int(self.code)


class InvalidRequest(BilletError):
    """No host can accept this request."""

    code = Code.INVALID_ARGUMENT


class Unauthenticated(BilletError):
    """The token is missing or wrong."""

    code = Code.UNAUTHENTICATED


class PermissionDenied(BilletError):
    """The caller's credential does not give it the right to do this."""

    code = Code.PERMISSION_DENIED


class NoRoom(BilletError):
    """No host has room for the microVM, or its namespace's quota is used up."""

    code = Code.RESOURCE_EXHAUSTED


class TooManyDeletes(BilletError):
    """The caller deletes more microVMs in a minute than a tool that knows what it does."""

    code = Code.RESOURCE_EXHAUSTED


class PreconditionFailed(BilletError):
    """The request is valid but not possible, or harmful, in the present state."""

    code = Code.FAILED_PRECONDITION


class Cancelled(BilletError):
    """The client gave up: before a host was told to create anything, or during a stream."""

    code = Code.CANCELLED


class Unimplemented(BilletError):
    """The server does not know this method."""

    code = Code.UNIMPLEMENTED


class Unreachable(BilletError):
    """A required component (a host, its flintlockd, the leader) is not responding."""

    code = Code.UNAVAILABLE


class LeaderLost(Unreachable):
    """The leader is not responding or leads no longer. The call may have taken effect."""


class NotSent(Unreachable):
    """The order was never sent, so the host has not carried it out."""


class Overloaded(BilletError):
    """More is asked for at once than the server takes. Nothing was done; trying again later helps."""

    code = Code.UNAVAILABLE

    def __init__(self, text: str, retry_ms: int) -> None:
        super().__init__(f"{text}; try again in {retry_ms / 1000:.1f} s")
        self.trailers = ((RETRY_PUSHBACK, str(retry_ms)),)


class CreateOutcomeUnknown(BilletError):
    """A host may have created the microVM. Until this is known, no other host is tried."""

    code = Code.UNAVAILABLE


class DeleteNotRecorded(BilletError):
    """A host has accepted a delete, and the store has refused the record of it. Billet keeps trying to write it."""

    code = Code.UNAVAILABLE


class HostVerdict(BilletError):
    """A server's own answer to a call, passed on with its own code and text."""

    code = Code.UNKNOWN

    def __init__(self, status: int, text: str, trailers: Metadata = ()) -> None:
        super().__init__(text)
        self._status = status
        self.trailers = trailers  # the server's trailing metadata, with the details of the status

    @property
    def status(self) -> int:
        """The code that the server gave."""
        return self._status


class StoreError(BilletError):
    """The store cannot be used now, or has refused. Nothing was written, unless a subclass says otherwise."""

    code = Code.UNAVAILABLE

    @property
    def reason(self) -> str:
        """The text without "nothing was written": for when a host has carried out what was not recorded."""
        return self.text.removesuffix(NOTHING_WRITTEN)


class StoreUnreachable(StoreError):
    """The store did not answer. The request may have taken effect."""


class StoreFull(StoreError):
    """etcd has reached its space quota and takes no writes."""


class StoreCorrupt(StoreError):
    """The store holds data that Billet cannot read."""


class StaleTerm(StoreError):
    """The term has ended, so the write was refused."""


class CommitOutcomeUnknown(StoreError):
    """A commit may or may not have taken effect."""


class EtcdTokenExpired(StoreError):
    """etcd no longer accepts the token from our login, and has done nothing."""


class HistoryCompacted(StoreError):
    """etcd has compacted the revisions that a watch or a read asked for."""


class ConfigError(BilletError):
    """A setting is wrong. The text names the setting and how to fix it."""
