"""The words of Billet, as values. docs/architecture.md has the same table in prose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Resources(NamedTuple):
    """An amount of what a microVM takes from a host. Also used for a host's capacity and for its room."""

    vcpu: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    vms: int = 0

    def plus(self, other: Resources) -> Resources:
        """Element by element."""
        return Resources(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])

    def minus(self, other: Resources) -> Resources:
        """Element by element; may go below zero, which is how an overcommitted host shows."""
        return Resources(self[0] - other[0], self[1] - other[1], self[2] - other[2], self[3] - other[3])

    def has_room(self, taken: Resources, demand: Resources) -> bool:
        """Whether `demand` fits in beside what is taken, in every element."""
        return (
            self[0] - taken[0] >= demand[0]
            and self[1] - taken[1] >= demand[1]
            and self[2] - taken[2] >= demand[2]
            and self[3] - taken[3] >= demand[3]
        )

    def covers(self, other: Resources) -> bool:
        """Whether `other` fits into this amount, in every element."""
        return self[0] >= other[0] and self[1] >= other[1] and self[2] >= other[2] and self[3] >= other[3]


ZERO = Resources()


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with a flintlockd.

    `capacity` is what the machine has; `allocatable` what Billet may promise of it:
    (capacity - reserve) x allocation ratio, worked out by the host's agent from its settings.
    """

    id: str
    capacity: Resources
    allocatable: Resources
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    provider: str = ""  # flintlockd's default provider, "" when the operator did not say
    cordoned: bool = False  # the operator wants no new microVM there
    fenced: bool = False  # declared dead: no new microVM before it has deleted what was released


class Image(NamedTuple):
    """An OCI image that a microVM boots from, by the reference in its spec. flintlockd unpacks kernels (and initrds)
    into another snapshotter than volumes, so that one and the same image may be there for one use only."""

    ref: str
    kernel: bool = False


UNCERTAINTY = (
    0.6  # of the bound of a host that has seen few boots: those vary by about 30 %, and are seen a little late
)


class Facts(NamedTuple):
    """What only the host knows and its bid carries. None is a fact that cannot be had, or is not known yet.

    `pressure` is 0 (idle) to 1 (everything waits); `pending` counts microVMs waiting for their boot, which
    flintlockd does one after another; `boot_s` is the host's own mean boot time, 0 when it has none yet.
    `ahead_s` is the seconds until all that wait are CREATED, the `pulls` that are to come before that included; None
    means pending x boot_s + pulls x pull_s. `pull_s` is the host's own mean time to pull an image. `uncertainty` is
    how
    far its boots stray from what it foretells (core/boots/forecast.py). `boots_seen` and `pulls_seen` are of how
    many boots and pulls the means are made; below 1, as where the host does not say, they count as 1.
    """

    pressure: float | None = None
    pending: int = 0
    boot_s: float = 0.0
    ahead_s: float | None = None
    pull_s: float | None = None
    uncertainty: float = UNCERTAINTY
    pulls: int = 0
    boots_seen: float = 0.0
    pulls_seen: float = 0.0

    def with_boots(
        self, pending: int, boot_s: float, ahead_s: float | None, pull_s: float | None, uncertainty: float
    ) -> Facts:
        """The same facts with these in the place of fields 1 to 5.

        By position: `_replace` takes twice as long, and the leader does this for every bid that has been overtaken.
        """
        return Facts(self[0], pending, boot_s, ahead_s, pull_s, uncertainty, *self[6:])


class Discount(NamedTuple):
    """What an audited host's bids are corrected by (core/accuracy.py). `delay` multiplies the seconds that it
    foretells;
    `utilisation` is added to its score."""

    delay: float = 1.0
    utilisation: float = 0.0


NO_DISCOUNT = Discount()


class Constraints(NamedTuple):
    """What a request wishes of its host, by its labels (core/constraints.py). An empty field wishes nothing.

    Hard, a host without it is out: `zone`, `host`, `require`, `avoid` (labels of the host), `apart` (no other of this
    group on the host). Soft, they add to the score: `spread`, `near`, and `cluster` with `plane` (a control plane).
    """

    zone: str = ""
    host: str = ""
    require: tuple[tuple[str, str], ...] = ()
    avoid: tuple[tuple[str, str], ...] = ()
    spread: str = ""
    apart: str = ""
    near: str = ""
    cluster: str = ""
    plane: bool = False
    policy: str = ""  # "" is the leader's
    priority: int = 0  # higher goes first among auctions that wait together

    @property
    def spreads(self) -> bool:
        """Whether a soft wish would have it in several zones."""
        return bool(self.spread or self.cluster) and not self.zone


NO_CONSTRAINTS = Constraints()


class GroupKind(Enum):
    """What holds a group of microVMs together."""

    GROUP = "group"  # they name it in `spread`, `apart` or `near`
    APART = "apart"  # they name it in `apart`: no two share a host
    CLUSTER = "cluster"  # machines of one cluster
    PLANES = "planes"  # its control planes


class Group(NamedTuple):
    """MicroVMs of one namespace that belong together."""

    namespace: str
    kind: GroupKind
    name: str


class Peers(NamedTuple):
    """How many of a group that a soft wish speaks of are on a host, in its zone, and anywhere, by the ledger.

    A host without a zone is a zone of its own.
    """

    preference: str
    here: int
    zone: int
    total: int


@dataclass(frozen=True, slots=True)
class Auction:
    """One microVM looking for a host. `id` is also the token by which a host's copy is recognised."""

    id: str
    namespace: str
    name: str
    demand: Resources
    provider: str = ""
    needs_macvtap: bool = False
    needs_virtiofs: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    constraints: Constraints = NO_CONSTRAINTS
    images: tuple[Image, ...] = ()


class Score(NamedTuple):
    """A price and its parts: `total` is the sum of the others; lower is better.

    `preference` and `correction` are the leader's to add: what a request's soft wishes make of the ledger, and what
    the host's bids have been wrong by before. Bids come without.
    """

    total: float
    utilisation: float
    pressure: float
    delay: float
    shape: float = 0.0  # from here on with defaults, so that records from before they were there can still be read
    preference: float = 0.0
    correction: float = 0.0


FORMULA = 6  # which formula of the score this is: one more with each change of it, and of what a bid means


class Bid(NamedTuple):
    """A host's offer for one auction.

    `basis` is what the host counted as taken when it worked out the score. Where the leader's ledger counts
    otherwise, the leader prices the bid anew with the same function (promise 1). `missing` counts the images that
    would have to be pulled for this microVM, and for none that waits already; `coming` those of its images that are
    pulled there now, or will be, for others that wait. `formula` is the score's, 0 of an agent that does not
    say: agents are upgraded in any order, and the scores of two formulas are not to be compared.
    """

    host: str
    score: Score
    basis: Resources
    facts: Facts
    missing: int = 0
    coming: int = 0
    formula: int = FORMULA


class Forecast(NamedTuple):
    """What a bid foretells of the microVM: how full its host will be with it, in how many seconds it will be CREATED,
    and the time within which nine of ten are. None where the host does not know yet."""

    utilisation: float
    created_s: float | None = None
    bound_s: float | None = None


class Reason(Enum):
    """Why a host will not, or can not, have a microVM."""

    NO_VCPU = "not enough vCPU"
    NO_MEMORY = "not enough memory"
    NO_DISK = "not enough disk"
    NO_SLOT = "no free microVM slot"
    PROVIDER = "has no such provider"
    MACVTAP = "its provider cannot do macvtap"
    VIRTIOFS = "its provider cannot do virtiofs"
    ZONE = "is not in the required zone"
    HOST = "is not the required host"
    LABEL = "lacks a required label"
    AVOIDED = "has a label that the request avoids"
    APART = "has another microVM of the apart group"
    CORDONED = "is cordoned"
    FENCED = "is fenced"
    DAEMON_AWAY = "its flintlockd does not answer"
    STOPPING = "its agent is stopping"
    SILENT = "did not answer the call for bids"
    AWAY = "is not connected"
    DECLINED = "withdrew its bid"


class Refusal(NamedTuple):
    """A host's no, with the words that a person reads ("needs 16 vCPU, 3 free")."""

    host: str
    reason: Reason
    detail: str = ""


class HostView(NamedTuple):
    """What the ledger says of a host at the moment of an award.

    `excluded_by`: why it is ruled out for this auction, its room apart. `peers`: what soft wishes are measured by.
    `discount`: what its bids are corrected by.
    """

    allocatable: Resources
    taken: Resources
    cordoned: bool = False
    fenced: bool = False
    excluded_by: Refusal | None = None
    peers: tuple[Peers, ...] = ()
    discount: Discount = NO_DISCOUNT


class Award(NamedTuple):
    """The winning bid, and the one that would have won without it."""

    host: str
    score: Score
    repriced: bool
    runner_up: str | None


class Unplaced(NamedTuple):
    """No bid could be taken: every host's reason, the most common first."""

    refusals: tuple[Refusal, ...]


REQUESTED = "req-"  # how the id of an auction begins whose client gave it a request id


class PlacementState(Enum):
    """The life of a placement. LOST, FENCED and GONE hold no room."""

    RESERVED = "RESERVED"  # committed before the host is told
    STARTED = "STARTED"  # the host has it; uid is known
    RELEASING = "RELEASING"  # a Delete was accepted by the host; room is held until it is gone
    LOST = "LOST"  # the host no longer has it though nobody asked Billet to delete it
    GONE = "GONE"  # deleted; remembered for a day, because its client may send its request id again
    FENCED = "FENCED"  # declared gone with its host; remembered, so that the host deletes it when it comes back


@dataclass(frozen=True, slots=True)
class Placement:
    """The committed claim of one microVM on one host. The spec is not in it: it holds secrets.

    `id` is the auction's id, and the token on the host; a microVM adopted from a host goes by its uid.
    """

    id: str
    namespace: str
    name: str
    demand: Resources
    host: str
    state: PlacementState
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    score: float = 0.0
    runner_up: str = ""
    adopted: bool = False
    changed_at_s: float = 0.0  # wall clock, for people and for the expiry of reservations
    instance: str = ""  # the agent's process that was connected when it was reserved: the one that may have the order


class VmState(Enum):
    """flintlockd's own states of a microVM, by their numbers on the wire."""

    PENDING = 0
    CREATED = 1
    FAILED = 2
    DELETING = 3


class Observed(NamedTuple):
    """One microVM as its host shows it. `token` is "" for one that was not made through Billet."""

    uid: str
    namespace: str
    name: str
    demand: Resources
    state: VmState
    token: str = ""
    retry: int = 0
    images: tuple[Image, ...] = ()  # only its own agent looks at them
