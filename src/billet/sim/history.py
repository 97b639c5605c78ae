"""What happened, as somebody saw it who sees everything. The checkers judge by it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from billet.core.model import Host, Resources
from billet.core.questions.record import AuctionRecord
from billet.core.quotas import Quota
from billet.core.state import Change


class HostMade(NamedTuple):
    """A host is part of this world."""

    at_s: float
    host: Host


class QuotaSet(NamedTuple):
    """A namespace has a quota in this run."""

    at_s: float
    namespace: str
    quota: Quota


class Accepted(NamedTuple):
    """A flintlockd took a microVM on. `told_s` is when it was called, `token` is "" for one made past Billet."""

    at_s: float
    host: str
    uid: str
    name: str
    token: str
    demand: Resources
    told_s: float


class Removed(NamedTuple):
    """A microVM is gone from its host."""

    at_s: float
    host: str
    uid: str


class Shown(NamedTuple):
    """A host's agent told of these microVMs for the first time: it counts them."""

    at_s: float
    host: str
    uids: Sequence[str]


class Elected(NamedTuple):
    """The store holds a candidate for the leader."""

    at_s: float
    term: int
    server: str


class Deposed(NamedTuple):
    """The store holds a term for over: its lease ran out, or it was ended, by its leader or by another server."""

    at_s: float
    term: int
    expired: bool


class Leads(NamedTuple):
    """A server begins or ceases to act as the leader. A stopped one cannot cease."""

    at_s: float
    term: int
    server: str
    leads: bool


class Stopped(NamedTuple):
    """A server stands still, or goes on."""

    at_s: float
    server: str
    stopped: bool


class Committed(NamedTuple):
    """The store wrote a transaction."""

    at_s: float
    term: int
    changes: Sequence[Change]


class LedgerSeen(NamedTuple):
    """What a leader's ledger counts as taken, at the moment of a commit, before and after."""

    at_s: float
    term: int
    taken: Mapping[str, Resources]


class Ordered(NamedTuple):
    """A create order, or (token "") a welcome, was handed to an agent. `agent` tells its starts apart."""

    at_s: float
    agent: str
    host: str
    term: int
    token: str


class Answered(NamedTuple):
    """What a client asked for, and what it was told. `uid` is what it asked about, or what it was given."""

    at_s: float
    asked_s: float
    client: str
    kind: str  # create, delete, get, list, or what an operator did
    name: str
    uid: str
    code: int
    text: str


class Recorded(NamedTuple):
    """An auction came to its end, and this is its record."""

    at_s: float
    record: AuctionRecord


class Unexpected(NamedTuple):
    """A part failed in a way that nobody planned."""

    at_s: float
    text: str


class Quiescent(NamedTuple):
    """The end of the run, and in what the store still differs from the hosts."""

    at_s: float
    differences: Sequence[str]


Event = (
    HostMade | QuotaSet | Accepted | Removed | Shown | Elected | Deposed | Leads | Stopped | Committed | LedgerSeen
    | Ordered | Answered | Recorded | Unexpected | Quiescent
)  # fmt: skip
