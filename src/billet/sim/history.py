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
    """An agent received a create order, or a welcome (token ""). `agent` is unique for each start of an agent.

    `instance` is the agent that the order was reserved for, "" when none was connected. `resent` and `verdict_only`
    are those of ports.CreateOptions.
    """

    at_s: float
    agent: str
    host: str
    term: int
    token: str
    instance: str = ""
    resent: bool = False
    verdict_only: bool = False


class Passed(NamedTuple):
    """An agent received a Get or a Delete of one microVM for its flintlockd."""

    at_s: float
    host: str
    term: int
    uid: str


class Told(NamedTuple):
    """A server sent something over a link, numbered `link`, to a host: a welcome, calls for bids, first orders."""

    at_s: float
    link: int
    host: str
    term: int  # of the welcome, 0 without one
    calls: int  # for bids
    tokens: frozenset[str]  # of creates that are ordered for the first time


class Reported(NamedTuple):
    """A server received an inventory over a link. `rows`: token by uid of the microVMs in it."""

    at_s: float
    link: int
    host: str
    server: str
    full: bool
    rows: Mapping[str, str]
    gone: Sequence[str]


class Heard(NamedTuple):
    """A server received a host's report or bids. `well`: its flintlockd answers, and its agent is not stopping."""

    at_s: float
    host: str
    server: str
    well: bool


class Parted(NamedTuple):
    """A server's end of a link was closed, or its agent has said hello on another link."""

    at_s: float
    link: int
    host: str
    server: str


class InHand(NamedTuple):
    """The tokens that creates and deletes of a term have worked on since the last look, if that has changed."""

    at_s: float
    term: int
    tokens: frozenset[str]


class Waits(NamedTuple):
    """A client, or a server on its behalf, begins or ceases to wait at the leader for a create."""

    at_s: float
    server: str
    token: str
    waits: bool


class Tried(NamedTuple):
    """An agent sent a create to its flintlockd."""

    at_s: float
    host: str
    token: str


class Declined(NamedTuple):
    """A flintlockd has refused a create, and has created nothing. `fault`: by the host's own fault."""

    at_s: float
    host: str
    token: str
    fault: bool = False


class DeletedTwice(NamedTuple):
    """An agent sends its flintlockd a Delete, though that has told it to delete the microVM already."""

    at_s: float
    host: str
    uid: str


class Listed(NamedTuple):
    """An agent received a List of its flintlockd, called at `called_s`."""

    at_s: float
    host: str
    called_s: float


class Answered(NamedTuple):
    """A client's call and its answer. `uid`: the microVM of the call, or of the answer to a create. `state`: of the
    microVM in the answer to a Get. `stale`: the answer says that it was given without a leader."""

    at_s: float
    asked_s: float
    client: str
    kind: str  # create, delete, get, list, or an operator's verb
    name: str
    uid: str
    code: int
    text: str
    state: str = ""
    stale: bool = False


class Recorded(NamedTuple):
    """An auction has ended on a server, with this record."""

    at_s: float
    record: AuctionRecord
    server: str = ""


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
    | TermRaised | Ordered | Passed | Told | Reported | Heard | Parted | InHand | Waits | Tried | Declined
    | DeletedTwice | Listed | Answered | Recorded | Unexpected | Quiescent
)  # fmt: skip
