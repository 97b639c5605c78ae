"""One create, while the leader carries it out."""

from __future__ import annotations

from dataclasses import dataclass, field

from billet.core.errors import BilletError, Cancelled, HostVerdict, PreconditionFailed, without_not_found
from billet.core.model import Auction, Placement, Reason, Refusal
from billet.leader.recorder import AuctionRecorder
from billet.ports import Denied, Failed

FAILED_HOSTS = 3  # a create that has failed on this many hosts, by their own faults, is given up


class Caller:
    """The clients that wait for one create. Once none is left, the create is abandoned if no host was told yet."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.waiting = 0  # more than 1 when the same create was sent again

    @property
    def gone(self) -> bool:
        """Whether no client waits any more."""
        return self.waiting == 0


@dataclass(slots=True)
class Job:
    """One create: the auction, the client's CreateMicroVMRequest as bytes, its clients, and its record.

    `failed`: the hosts that have failed it by their own fault, which are not asked again; the latest is the last.
    """

    auction: Auction
    request: bytes
    caller: Caller
    recorder: AuctionRecorder
    failed: dict[str, Failed] = field(default_factory=dict)
    moves: int = -1  # the fleet's counter when hosts were asked last

    def failed_on(self, host_id: str, failure: Failed) -> Refusal:
        """Note a host's failure, so that another host is asked. Raises HostVerdict when enough hosts have failed."""
        self.failed.pop(host_id, None)
        self.failed[host_id] = failure
        if len(self.failed) >= FAILED_HOSTS:
            raise self.last_failure()
        return Refusal(host_id, Reason.FAULT, failure.text)

    def refusals(self) -> list[Refusal]:
        """The hosts that have failed it, as refusals."""
        return [Refusal(host_id, Reason.FAULT, failure.text) for host_id, failure in self.failed.items()]

    def last_failure(self) -> HostVerdict:
        """The latest host's failure, in flintlockd's words."""
        return host_verdict(list(self.failed.values())[-1])


def host_verdict(outcome: Denied | Failed) -> HostVerdict:
    """flintlockd's words about a create, as the error for the client."""
    return HostVerdict(outcome.code, without_not_found(outcome.text), outcome.trailers)


def gone_since(known: Placement) -> BilletError:
    """The error for a request that was carried out, and whose microVM has ended."""
    return PreconditionFailed(
        f"this request has created microVM {known.uid or known.id} already, which is {known.state.value} now; "
        "send a new request id, or none, to create another"
    )


def given_up() -> BilletError:
    """The error for clients that have gone before a host was told."""
    return Cancelled("the client gave up before a host was told; nothing was created")
