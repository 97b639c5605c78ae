"""WHAT deciding needs from the world: the store, the hosts, a flintlockd, the clock. Adapters provide them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from billet.core.model import ZERO, Auction, Bid, Facts, Host, Observed, Refusal, Resources
from billet.core.pressure import NO_STALLS, Stalls
from billet.core.state import Change


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, and where the others reach it ("host:port")."""

    id: str
    grpc: str
    link: str


@dataclass(frozen=True, slots=True)
class Term:
    """One leader's reign. `number` only grows, also when a store is restored from a backup (docs/adr/0009);
    hosts and the store refuse an older one.
    """

    number: int
    leader: Leader


class Snapshot(NamedTuple):
    """Everything in the store, as the steps that build it, and the revision it was read at."""

    revision: int
    changes: list[Change]


class Store(Protocol):
    """The global state. One contract suite (tests/stores) runs on every implementation.

    Raises StoreError and its children only; see core/errors.py.
    """

    async def open(self) -> None:
        """Reach the store; StoreError says in one line what is wrong and how to mend it."""

    async def close(self) -> None:
        """Let go of everything. A term that is still held is resigned."""

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        """Wait until elected. Cancelling withdraws the candidature.

        The term's number, and that of every later one, is greater than `above`: the greatest that any host has
        seen, when that is known. A store that was put back to an earlier day would give out old numbers again.
        """

    async def resign(self, term: Term) -> None:
        """Hand over at once. Idempotent."""

    async def ended(self, term: Term) -> None:
        """Return when the term is over or can no longer be known to be ours (lease not kept alive)."""

    async def leader(self) -> Leader | None:
        """Who leads now, None when nobody does."""

    async def contested(self, term: Term) -> bool:
        """Whether another server waits to lead, so that resigning hands over at once."""

    def leaders(self) -> AsyncIterator[Leader | None]:
        """Who leads, at once and again at every change, for ever; changes that follow closely may be told as one.

        Survives the store's absence: None when, for longer than a lease, nobody could know. Raises StoreError only
        when this store is closed.
        """

    async def depose(self, leader: Leader) -> None:
        """This leader is surely dead: end its term now instead of waiting for its lease. Nothing if it leads no more.

        A wrong suspicion costs one hand-over, never safety: what the deposed one commits is refused.
        """

    async def load(self) -> Snapshot:
        """Read everything, linearizably."""

    async def commit(self, term: Term, changes: Sequence[Change]) -> int:
        """Make all of the changes durable, or none, if the term is still current; return the revision.

        Calls that wait together share a transaction (group commit). Raises Fenced when the term has ended,
        CommitOutcomeUnknown when the answer was lost and could not be learnt, StoreError when nothing was written.
        A commit that was sent cannot be called back: cancelling the caller does not undo it.
        """


class Vitals(NamedTuple):
    """How an engine is. Sizes are those of its file, the largest where there are several."""

    engine: str  # "SQLite 3.40.1"
    term: int  # none greater was ever given out
    size_bytes: int
    used_bytes: int  # the rest is free for what comes
    troubles: tuple[str, ...] = ()  # one line each


class Engine(Store, Protocol):
    """A store as those see it who back it up, restore it and check it: records as they are kept."""

    async def records(self) -> tuple[int, dict[str, bytes]]:
        """Every record by its key, unread, and the revision they were read at."""

    async def write(self, term: Term, writes: dict[str, bytes | None]) -> int:
        """As `commit`; None deletes a key."""

    async def vitals(self) -> Vitals:
        """How the engine is."""


class Reply(NamedTuple):
    """flintlockd's answer to one call: a gRPC status code, its text, and the message's bytes when OK."""

    code: int
    text: str
    payload: bytes


class Flintlock(Protocol):
    """One host's daemon, as its agent sees it. Requests and answers are protobuf bytes."""

    async def ready(self, timeout_s: float) -> bool:
        """Whether there is a connection; False means that a call now would surely not be sent."""

    async def call(self, method: str, request: bytes, timeout_s: float) -> Reply:
        """A unary call. Never raises for a status: UNAVAILABLE and its like come back as a Reply."""

    def stream(self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None) -> AsyncIterator[bytes]:
        """Any call as a stream of messages both ways; ends with HostVerdict unless the status is OK."""

    async def close(self) -> None:
        """Let go of the connection."""


class Created(NamedTuple):
    """The host has the microVM. `reply` is flintlockd's own, without the token."""

    uid: str
    reply: bytes


class Denied(NamedTuple):
    """flintlockd gave its verdict: final, for every host alike."""

    code: int
    text: str


class NotTaken(NamedTuple):
    """The host surely does not have it and will not: another may be asked."""

    refusal: Refusal


class Unknown(NamedTuple):
    """The host may have it. Nobody else may be asked before this is settled."""

    text: str


Outcome = Created | Denied | NotTaken | Unknown


class CreateOptions(NamedTuple):
    """What else a host must know of a create that it is told.

    `instance` is the agent's process that the microVM was reserved for; no other gets the order the first time.
    `again`: an earlier leader may have sent the order already, to that process. One that is not it, or does not
    know what became of it, looks for the token before anything else.
    `verdict_only`: flintlockd is expected to refuse, in its own words. No room is reserved, so a microVM that it
    makes all the same is deleted at once and comes back as NotTaken.
    """

    instance: str = ""
    again: bool = False
    verdict_only: bool = False


DEFAULT_OPTIONS = CreateOptions()


class Hosts(Protocol):
    """All agents, as the leader sees them."""

    async def call_for_bids(self, auction: Auction, host_ids: Sequence[str]) -> list[Bid | Refusal]:
        """Ask these hosts. Late ones count as SILENT; calls that wait together share messages."""

    def instance(self, host_id: str) -> str:
        """The process of a host's agent that is connected now, by a name that no other ever has; "" when none is."""

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        """Tell the winner. `request` is the client's CreateMicroVMRequest, to the byte."""

    async def get(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """flintlockd's GetMicroVM of one microVM, whose reply is on the wire like a create's. Raises as `call`."""

    async def delete(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """flintlockd's DeleteMicroVM of one microVM. Raises Unreachable when the host cannot be reached."""

    async def call(self, host_id: str, method: str, request: bytes, timeout_s: float) -> Reply:
        """Pass a unary call on to a host's flintlockd. Raises Unreachable when the host cannot be reached."""

    def stream(
        self, host_id: str, method: str, requests: AsyncIterator[bytes], timeout_s: float | None
    ) -> AsyncIterator[bytes]:
        """Pass any other call on. Raises Unreachable, or HostVerdict with flintlockd's own status."""


class MachineFacts(NamedTuple):
    """What a machine is. None is a fact that cannot be had; `lacks` says in words which those are, and why."""

    cpu_model: str | None = None
    kvm: bool | None = None  # /dev/kvm can be opened
    providers: tuple[str, ...] | None = None  # whose programs are there
    lacks: tuple[str, ...] = ()


NOTHING_KNOWN = MachineFacts()


@dataclass(frozen=True, slots=True)
class Report:
    """A host's periodic broadcast of what it measures. Shares are 0 to 1, of the whole machine.

    None is a fact that cannot be had there.
    """

    facts: Facts
    cpu_share: float
    memory_used_mib: int
    disk_free_mib: int
    vms: int  # every microVM on the host, made through Billet or not
    failed: int
    daemon_ok: bool
    interval_s: float
    taken: Resources = ZERO  # what the host counts, creates in hand included
    stalls: Stalls = NO_STALLS
    memory_free_mib: int | None = None
    volumes_free_mib: int | None = None
    images: int | None = None  # unpacked, None when containerd does not say
    machine: MachineFacts = NOTHING_KNOWN


class InventoryUpdate(NamedTuple):
    """What a host runs: everything when `full`, else what changed since the last one."""

    full: bool
    seen: list[Observed]
    gone: list[str]  # uids
    creating: list[str]  # tokens of creates that the agent has in hand


class HostsListener(Protocol):
    """What the leader wants to hear of its agents."""

    def joined(self, host: Host) -> None:
        """A host said hello. Its full inventory follows once its flintlockd answers."""

    def reported(self, host_id: str, report: Report) -> None:
        """A host measured itself."""

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """A host's microVMs changed."""

    def left(self, host_id: str) -> None:
        """A host's link broke."""


class Answer(NamedTuple):
    """A reply to a client, and the trailing metadata that goes with it."""

    payload: bytes
    trailers: tuple[tuple[str, str], ...] = ()


class Backend(Protocol):
    """What answers clients' calls: this server when it leads, else the leader. Requests and replies are bytes.

    Raises BilletError for everything that goes wrong.
    """

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """A unary call of Flintlock's service that Billet knows, or of its own Fleet service."""

    def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None, metadata: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """Any other call, unary or streaming: on the wire they differ only in the number of messages."""


class Clock(Protocol):
    """Time as an argument (promise 7)."""

    def now_s(self) -> float:
        """Wall clock, seconds since the epoch: for records and people."""

    def monotonic_s(self) -> float:
        """For durations."""
