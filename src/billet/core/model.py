"""The terms of Billet as types. docs/architecture.md explains them in prose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from billet.core.corrections import NO_DISCOUNT, NO_TROUBLE, Discount, Trouble
from billet.core.scarcity import PLENTIFUL, Scarcity
from billet.core.vmm import Vmm


class Resources(NamedTuple):
    """Amounts of the resources that microVMs take: a demand, a host's capacity, or its free room."""

    vcpu: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    vms: int = 0

    def plus(self, other: Resources) -> Resources:
        """Element by element."""
        return Resources(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])

    def minus(self, other: Resources) -> Resources:
        """Element by element; negative on an overcommitted host."""
        return Resources(self[0] - other[0], self[1] - other[1], self[2] - other[2], self[3] - other[3])

    def has_room(self, taken: Resources, demand: Resources) -> bool:
        """Whether `demand` fits beside `taken`, in every element."""
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
    """A machine with a flintlockd. `capacity` is what the machine has, `allocatable` what Billet may promise:
    (capacity - reserve) x allocation ratio, computed by the host's agent from its settings."""

    id: str
    capacity: Resources
    allocatable: Resources
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    provider: str = ""  # flintlockd's default provider, "" = not configured
    cordoned: bool = False  # the operator allows no new microVMs
    fenced: bool = False  # declared dead: no new microVMs until it has deleted the released ones
    key: str = ""  # its identity (core/identity.py): public key of its agent, base64; "" = not bound
    machine: str = ""  # machine id
    boot: str = ""  # boot id of the machine, as of the last join
    duplicate: bool = False  # the key was shown by two machines: only `boot` is let in


class Image(NamedTuple):
    """An OCI image of a microVM, by the reference in its spec. flintlockd unpacks kernels (and initrds) into another
    snapshotter than volumes, so an image can be unpacked for one use and not for the other."""

    ref: str
    kernel: bool = False


UNCERTAINTY = 0.6  # of a host that has seen few boots: they vary by about 30 %, and are noticed a little late


class Facts(NamedTuple):
    """The facts that only the host knows, sent with its bid. None is unavailable or not known yet.

    `pressure` is 0 (idle) to 1 (everything waits). `pending` is the number of microVMs waiting for their boot, which
    flintlockd does one after another; `ahead_s` the seconds until all of them are CREATED, with the `pulls` to come
    before that; None means pending x boot_s + pulls x pull_s. `boot_s` and `pull_s` are the host's own mean times of
    a boot (0 = none seen) and a pull, of `boots_seen` and `pulls_seen` samples (below 1 counts as 1). `uncertainty`
    is how far boots deviate from the forecast (core/boots/forecast.py).
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
        """The facts with other values of fields 1 to 5. Twice as fast as `_replace`, for every overtaken bid."""
        return Facts(self[0], pending, boot_s, ahead_s, pull_s, uncertainty, *self[6:])


class Constraints(NamedTuple):
    """Constraints and preferences of a request, from its labels (core/constraints.py). Empty fields ask for nothing.

    Constraints exclude hosts: `zone`, `host`, `require` and `avoid` (labels of the host), `apart` (no other member of
    this group on the host). Preferences: `spread` and `plane` (of `cluster`) come before the score, the rest in it.
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
    policy: str = ""  # "" = the leader's policy
    priority: int = 0  # higher first, among auctions of one batch

    @property
    def spreads(self) -> bool:
        """Whether a preference asks for several zones."""
        return bool(self.spread or self.cluster) and not self.zone


NO_CONSTRAINTS = Constraints()


class GroupKind(Enum):
    """What the members of a group have in common."""

    GROUP = "group"  # named in `spread`, `apart` or `near`
    APART = "apart"  # named in `apart`: no two share a host
    CLUSTER = "cluster"  # the machines of one cluster
    PLANES = "planes"  # the control planes of one cluster


class Group(NamedTuple):
    """A group of microVMs in one namespace."""

    namespace: str
    kind: GroupKind
    name: str


class Peers(NamedTuple):
    """The members of a preference's group: their number on a host, in its zone, and in total, by the ledger.
    A host without a zone is its own zone."""

    preference: str
    here: int
    zone: int
    total: int


@dataclass(frozen=True, slots=True)
class Auction:
    """One microVM that needs a host. `id` is also the token that identifies the microVM on its host.

    `recipe` stands for everything in the spec that decides whether it boots (core/blame.py).
    """

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
    recipe: str = ""


class Score(NamedTuple):
    """A score and its parts: `total` is the sum of the others; lower is better. The leader adds `preference` (of the
    request), `correction` (of the host's bids), `trouble` (what failed there) and `scarcity` (of its labels)."""

    total: float
    utilisation: float
    pressure: float
    delay: float
    shape: float = 0.0  # defaults from here on: older records lack these fields
    preference: float = 0.0
    correction: float = 0.0
    trouble: float = 0.0
    scarcity: float = 0.0


FORMULA = 10  # version of the score's formula and of the meaning of a bid; one more with each change


class Bid(NamedTuple):
    """A host's offer for one auction.

    `basis` is what the host counted as taken when it computed the score. If the leader's ledger differs, the leader
    computes the score again with the same function (promise 1). `missing` is the number of images to pull for this
    microVM alone; `coming` the number of its images that the host pulls, or will pull, for others that wait already.
    `formula` is the version of the score's formula, 0 from an old agent: agents are upgraded in any order, and scores
    of two formulas cannot be compared. `age_s`: how old it is, of a host that was late or not asked; else 0.
    """

    host: str
    score: Score
    basis: Resources
    facts: Facts
    missing: int = 0
    coming: int = 0
    formula: int = FORMULA
    age_s: float = 0.0


class Forecast(NamedTuple):
    """What a bid predicts: the host's utilisation with the microVM, the seconds until it is CREATED, and the bound
    that nine of ten keep. None where the host does not know yet."""

    utilisation: float
    created_s: float | None = None
    bound_s: float | None = None


class Reason(Enum):
    """Why a host does not take a microVM. Stored records contain these texts (wire/auction_records.py)."""

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
    FAULT = "its flintlockd failed to create it"
    SUSPECT = "is suspect"


class Refusal(NamedTuple):
    """A host's refusal, with details for people ("needs 16 vCPU, 3 free")."""

    host: str
    reason: Reason
    detail: str = ""


class HostView(NamedTuple):
    """A host in the ledger at the moment of an award.

    `excluded_by`: the constraint that excludes it from this auction. `peers`: the counts for preferences. `discount`:
    the correction of its bids. `trouble`: what has failed there. `scarcity`: labels that few hosts have.
    """

    allocatable: Resources
    taken: Resources
    cordoned: bool = False
    fenced: bool = False
    excluded_by: Refusal | None = None
    peers: tuple[Peers, ...] = ()
    discount: Discount = NO_DISCOUNT
    trouble: Trouble = NO_TROUBLE
    scarcity: Scarcity = PLENTIFUL


class Award(NamedTuple):
    """The winning bid, and the host that would have won without it."""

    host: str
    score: Score
    repriced: bool
    runner_up: str | None


class Unplaced(NamedTuple):
    """No bid could win: every host's reason, the most common first."""

    refusals: tuple[Refusal, ...]


REQUESTED = "req-"  # prefix of the id of an auction whose client sent a request id


class PlacementState(Enum):
    """The life of a placement. LOST, FENCED and GONE hold no room."""

    RESERVED = "RESERVED"  # committed before the host is told
    STARTED = "STARTED"  # the host has it; uid is known
    RELEASING = "RELEASING"  # a Delete was accepted by the host; room is held until it is gone
    LOST = "LOST"  # the host no longer has it, though no Delete was sent through Billet
    GONE = "GONE"  # deleted; remembered for as long as its create may be sent again, by its client or by a server
    FENCED = "FENCED"  # given up with its host; remembered, so that the host deletes it when it comes back


@dataclass(frozen=True, slots=True)
class Placement:
    """The committed claim of one microVM on one host. It has no spec, because specs hold secrets.

    `id` is the auction's id and the token on the host; for a microVM adopted from a host it is the uid.
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
    changed_at_s: float = 0.0  # wall clock, for people and for how long ended placements are kept
    instance: str = ""  # the agent's process that was connected at the reservation: only that one may have the order


class VmState(Enum):
    """flintlockd's states of a microVM, by their numbers on the wire."""

    PENDING = 0
    CREATED = 1
    FAILED = 2
    DELETING = 3


class Observed(NamedTuple):
    """One microVM as its host lists it. `token` is "" for one that was not created through Billet."""

    uid: str
    namespace: str
    name: str
    demand: Resources
    state: VmState
    token: str = ""
    retry: int = 0
    images: tuple[Image, ...] = ()  # used by the host's own agent only
    vmm: Vmm = Vmm.UNKNOWN
