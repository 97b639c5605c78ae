"""Ports: what deciding needs from the world, as Protocols: the store, the hosts, flintlockd, the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from billet.core.access import Credential
from billet.core.identity import Claim, Verdict
from billet.core.metadata import Metadata, ReplyMetadata
from billet.core.model import Auction, Bid, Host, Refusal
from billet.core.report import InventoryUpdate, Report

if TYPE_CHECKING:  # it needs numpy, which an agent does without
    from billet.core.state import Change


@dataclass(frozen=True, slots=True)
class Leader:
    """A server that leads or stands for election, and the addresses ("host:port") of its ports."""

    id: str
    grpc: str
    link: str
    secret: str = field(default="", compare=False, repr=False)  # of servers that call it
    http: str = field(default="", compare=False)  # the address of its HTTP port; "" = it has none
    version: str = field(default="", compare=False)  # of Billet; "" = one that does not say


@dataclass(frozen=True, slots=True)
class Term:
    """One leader's period of leadership. `number` only grows, also over restores; an older one is refused."""

    number: int
    leader: Leader


class Snapshot(NamedTuple):
    """Everything in the store, as the changes that build the state, and the revision that was read."""

    revision: int
    changes: list[Change]


class Store(Protocol):
    """The durable state of the cluster. One contract suite (tests/stores) runs on every implementation.

    Raises StoreError and its children only; see core/errors.py.
    """

    async def open(self) -> None:
        """Connect to the store; a StoreError says in one line what is wrong and how to fix it."""

    async def close(self) -> None:
        """Release everything. A current term is resigned."""

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        """Wait until this server is elected. Cancelling withdraws its candidacy.

        The number of this term and of every later one is greater than `above`, the greatest that any host is known to
        have seen: a store that was restored from a backup would otherwise give out old numbers again.
        """

    async def resign(self, term: Term) -> None:
        """End the term, so that another server can lead at once. Idempotent."""

    async def ended(self, term: Term) -> None:
        """Return when the term is over, or may be over because its lease could not be renewed."""

    async def leader(self) -> Leader | None:
        """The server that leads now; None if there is none."""

    async def contested(self, term: Term) -> bool:
        """Whether another server waits to be elected, so that resigning hands over at once."""

    def leaders(self) -> AsyncIterator[Leader | None]:
        """Yield the leader now and after every change, without end; changes in quick succession may be merged.

        None also after longer than a lease without knowing. Raises StoreError only when this store is closed.
        """

    async def depose(self, leader: Leader) -> None:
        """End the term of a leader that is surely dead, before its lease expires. No effect if it does not lead.

        A wrong suspicion costs one hand-over, never safety: commits of the deposed leader are refused.
        """

    async def load(self) -> Snapshot:
        """Read everything, linearizably."""

    async def credentials(self) -> list[Credential]:
        """Read the credentials alone, linearizably: every server does so every second."""

    async def commit(self, term: Term, changes: Sequence[Change], within_s: float = 0.0) -> int:
        """Make all of the changes durable, or none, if the term is still current; return the revision.

        Concurrent calls share a transaction (group commit). One that can wait for `within_s` starts none of its own
        in that time. Raises StaleTerm when the term has ended, CommitOutcomeUnknown when the answer was lost and the
        outcome could not be found out, StoreError when nothing was written. A commit that was sent cannot be undone:
        cancelling the caller does not stop it.
        """


class Reply(NamedTuple):
    """flintlockd's answer to one call: a gRPC status code, its text, and the message's bytes when OK."""

    code: int
    text: str
    payload: bytes
    headers: Metadata = ()
    trailers: Metadata = ()  # with the details of the status, if it has any


class Flintlock(Protocol):
    """One host's flintlockd, as its agent sees it. Requests and replies are protobuf bytes."""

    async def ready(self, timeout_s: float) -> bool:
        """Wait for a connection; False means that a call now would certainly not be sent."""

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """Make a unary call. Never raises for a gRPC status: UNAVAILABLE etc. are returned as a Reply."""

    def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata = (),
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """Make any call, as a stream of messages both ways. Raises HostVerdict unless the status is OK.

        Closing the replies cancels the call, and so does an error of `requests`. Their end half-closes it.
        """

    async def close(self) -> None:
        """Close the connection."""


class Created(NamedTuple):
    """The host has the microVM. `reply` is flintlockd's own, without the token."""

    uid: str
    reply: bytes


class Denied(NamedTuple):
    """flintlockd rejected the request; the verdict is final and the same on every host."""

    code: int
    text: str
    trailers: Metadata = ()  # as in Failed
    unclear: bool = False  # its text is not known here: it may be the host's own fault


class Failed(NamedTuple):
    """The host's own fault: flintlockd tried, and surely has not created the microVM. Another host may be asked."""

    code: int
    text: str
    trailers: Metadata = ()  # with the details of the status


class NotTaken(NamedTuple):
    """The host certainly does not have the microVM and will not get it: another host may be asked."""

    refusal: Refusal


class Unknown(NamedTuple):
    """The host may have the microVM. No other host may be asked until this is resolved."""

    text: str
    fault: bool = False  # flintlockd has answered, with an error of its own


class Ended(NamedTuple):
    """The host has had the microVM of this order, and it was deleted since."""

    uid: str


Outcome = Created | Denied | Failed | NotTaken | Unknown | Ended


class CreateOptions(NamedTuple):
    """Options of a create order.

    `resent`: an earlier leader may have sent the order: unless the agent knows its outcome, it looks for the token.
    `verdict_only`: flintlockd is expected to reject it, and no room is reserved: a microVM is deleted at once.
    """

    instance: str = ""  # the agent's process that the room was reserved for; the first order goes to no other
    resent: bool = False
    verdict_only: bool = False


DEFAULT_OPTIONS = CreateOptions()


class Hosts(Protocol):
    """All agents, as the leader sees them."""

    async def call_for_bids(
        self, auction: Auction, host_ids: Sequence[str], wait: bool = False
    ) -> list[Bid | Refusal]:
        """Ask these hosts for bids. A late one is SILENT. Concurrent calls share messages.

        `wait`: also for hosts that are known to be late.
        """

    def instance(self, host_id: str) -> str:
        """The unique name of the process of a host's agent that is connected now; "" if none is."""

    def certificate_ends_s(self, host_id: str) -> float:
        """Until when the certificate of a host's agent is valid, in seconds since 1970; 0 if it has shown none."""

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        """Order the winner to create the microVM. `request` is the client's CreateMicroVMRequest, byte for byte."""

    async def get(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """Call flintlockd's GetMicroVM; on the wire the reply is the same as a create's. Raises as `call`."""

    async def delete(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """Call flintlockd's DeleteMicroVM. Raises Unreachable when the host cannot be reached."""

    async def call(
        self, host_id: str, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()
    ) -> Reply:
        """Forward a unary call to a host's flintlockd. Raises Unreachable when the host cannot be reached."""

    def dismiss(self, host_id: str, why: str) -> None:
        """Refuse an agent that had joined, and close its connection."""

    def regreet(self, host_id: str) -> None:
        """Decide once more about the agents that wait under this name."""

    def stream(
        self,
        host_id: str,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata = (),
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """Forward any other call. Raises Unreachable, or HostVerdict with flintlockd's own status.

        `requests` as in Backend.stream. Closing the replies cancels the call on the host.
        """


class HostsListener(Protocol):
    """The leader's side of the link: events of the agents."""

    def joined(self, host: Host) -> None:
        """A host connected. Its full inventory follows once its flintlockd answers."""

    def reported(self, host_id: str, report: Report) -> None:
        """A host sent a report."""

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """A host's microVMs changed."""

    def left(self, host_id: str) -> None:
        """A host's link was lost."""


class Gate(Protocol):
    """What the link asks and tells the leader of agents: who may join, and what those that joined have sent."""

    def greet(self, claim: Claim, taken: str = "") -> Verdict:
        """An agent has said hello, or a term has begun: decide about it. If it is admitted, it has joined.

        `taken`: why its name is not free, if an agent that has joined has it.
        """

    def vouches(self, claim: Claim) -> bool:
        """Whether no other key is known to have this name. Also asked after the term, while another server leads."""

    def copied(self, host_id: str) -> None:
        """Another machine has shown the key of this host, which is connected and alive."""

    def reported(self, host_id: str, report: Report) -> None:
        """See HostsListener."""

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """See HostsListener."""

    def left(self, host_id: str, instance: str) -> None:
        """The connection of an agent's process has closed."""


class Identity(Protocol):
    """Who an agent is: its key, and its machine."""

    public_key: bytes
    machine: str  # machine id, "" = unavailable
    boot: str  # boot id, "" = unavailable

    def sign(self, message: bytes) -> bytes:
        """The signature of a message by the key."""


class Answer(NamedTuple):
    """A reply to a client, with its metadata."""

    payload: bytes
    trailers: Metadata = ()
    headers: Metadata = ()


class Backend(Protocol):
    """Answers clients' calls: this server if it leads, else a proxy to the leader. Raises only BilletError."""

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """Answer a unary call of Flintlock's service that Billet knows, or of its own Fleet service."""

    def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """Answer any other call, unary or streaming: on the wire they differ only in the number of messages.

        `requests` end when the client has half-closed, and only then: if it has cancelled, or is gone, they raise
        Cancelled. Closing the replies cancels the call.
        """


class Clock(Protocol):
    """The clock, as an argument (promise 7)."""

    def now_s(self) -> float:
        """Wall clock, in seconds since the epoch: for records and people."""

    def monotonic_s(self) -> float:
        """Monotonic clock, in seconds: for durations."""
