"""The events of a run, recorded by the simulator. They are the only input of the checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from billet.core.model import Host, Resources
from billet.core.questions.record import AuctionRecord
from billet.core.quotas import Quota
from billet.core.state import Change


class HostMade(NamedTuple):
    """A host exists in this run."""

    at_s: float
    host: Host


class QuotaSet(NamedTuple):
    """A namespace has a quota in this run."""

    at_s: float
    namespace: str
    quota: Quota


class Accepted(NamedTuple):
    """A flintlockd accepted a microVM. `called_s`: time of the call; `token`: "" if it bypassed Billet."""

    at_s: float
    host: str
    uid: str
    name: str
    token: str
    demand: Resources
    called_s: float


class Removed(NamedTuple):
    """A microVM is gone from its host."""

    at_s: float
    host: str
    uid: str


class Shown(NamedTuple):
    """An agent has reported these microVMs for the first time."""

    at_s: float
    host: str
    uids: Sequence[str]


class Elected(NamedTuple):
    """The store elects a candidate."""

    at_s: float
    term: int
    server: str


class Deposed(NamedTuple):
    """A term ends in the store: its lease expired, or its leader or another server ended it."""

    at_s: float
    term: int
    expired: bool


HUGE = 1 << 40  # a term that no simulated store reaches, and that only a lying host reports


class TermRaised(NamedTuple):
    """A server wants a term above one that hosts report, though no store was restored from a backup."""

    at_s: float
    server: str
    above: int


class Leads(NamedTuple):
    """A server begins or ceases to act as the leader. A stopped (SIGSTOP) server cannot cease."""

    at_s: float
    term: int
    server: str
    leads: bool


class Stopped(NamedTuple):
    """A server is stopped (SIGSTOP), or continues."""

    at_s: float
    server: str
    stopped: bool


class Committed(NamedTuple):
    """The store has written a transaction."""

    at_s: float
    term: int
    changes: Sequence[Change]


class LedgerSeen(NamedTuple):
    """What a leader's ledger counts as taken, before and after each commit. By host."""

    at_s: float
    term: int
    taken: Mapping[str, Resources]


class Ordered(NamedTuple):
    """An agent received a create order, or a welcome (token ""). `agent` is unique for each start of an agent."""

    at_s: float
    agent: str
    host: str
    term: int
    token: str


class Answered(NamedTuple):
    """A client's call and its answer. `uid`: the microVM of the call, or of the answer to a create."""

    at_s: float
    asked_s: float
    client: str
    kind: str  # create, delete, get, list, or an operator's verb
    name: str
    uid: str
    code: int
    text: str


class Recorded(NamedTuple):
    """An auction has ended, with this record."""

    at_s: float
    record: AuctionRecord


class Unexpected(NamedTuple):
    """A part failed with an error that is not Billet's own."""

    at_s: float
    text: str


class Quiescent(NamedTuple):
    """The end of the run. `differences`: how the store still differs from the hosts."""

    at_s: float
    differences: Sequence[str]


Event = (
    HostMade | QuotaSet | Accepted | Removed | Shown | Elected | Deposed | Leads | Stopped | Committed | LedgerSeen
    | TermRaised | Ordered | Answered | Recorded | Unexpected | Quiescent
)  # fmt: skip
