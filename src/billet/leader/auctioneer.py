"""Create and delete, from request to reply: ask for bids, award, commit, tell the winner, commit, answer.

`create` is the straight line. One coroutine per auction is its state machine; batching lives in the adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice

from billet.core.auction import AWAY_REASONS, award, explain_unplaced, hopeless, merely_away, tie_break
from billet.core.bidding import CAPABILITY_REASONS, no_room
from billet.core.errors import (
    BilletError,
    Cancelled,
    Code,
    CreateOutcomeUnknown,
    HostVerdict,
    NoRoom,
    PreconditionFailed,
    StoreError,
    Unreachable,
    says_not_found,
)
from billet.core.model import (
    NO_CONSTRAINTS,
    ZERO,
    Auction,
    Award,
    Bid,
    HostView,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Unplaced,
)
from billet.core.policies import named
from billet.core.questions.record import Called
from billet.core.quotas import Quotas, exceeded
from billet.core.scoring import DEFAULT_WEIGHTS, Weights
from billet.core.state import DropPlacement, PutPlacement
from billet.leader.accuracy import AccuracyTracker
from billet.leader.batching import Clearing
from billet.leader.ledger import Ledger
from billet.leader.presence import Presence
from billet.leader.recorder import AuctionRecorder
from billet.ports import Clock, Created, CreateOptions, Denied, Hosts, NotTaken, Unknown


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that auctions go by; config.py says what each trades."""

    weights: Weights = DEFAULT_WEIGHTS
    ask_hosts: int = 32  # hosts asked per auction, 0 = all
    ask_random: int = 4  # hosts asked besides, drawn by a hash of the auction
    create_timeout_s: float = 30.0
    call_timeout_s: float = 10.0
    shadow: Weights | None = None  # decides beside `weights`, for the record only
    arrive_s: float = 5.0  # how long a new leader hopes for hosts that have not come to it yet
    quotas: Quotas = field(default_factory=dict)


class Caller:
    """Whether a client still waits. A create that all gave up goes on only where it cannot be called back."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.waiting = 0  # a create that is sent again joins the one under way

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self.waiting == 0


class Auctioneer:
    """The leader's hand: holds auctions and carries out their awards."""

    def __init__(
        self,
        ledger: Ledger,
        hosts: Hosts,
        ready: Presence,
        rules: Rules,
        clock: Clock,
        record: Callable[[AuctionRecorder], None],
        accuracy: AccuracyTracker | None = None,
    ) -> None:
        self._ledger = ledger
        self._hosts = hosts
        self._ready = ready
        self._rules = rules
        self._clock = clock
        self._record = record
        self._accuracy = accuracy
        self._clearing = Clearing(ledger.state)
        self._arrived_by_s = clock.monotonic_s() + rules.arrive_s

    async def create(self, auction: Auction, request: bytes, caller: Caller) -> bytes:
        """One microVM: returns flintlockd's own reply, to the byte but for the token. Raises BilletError."""
        recorder = AuctionRecorder(auction, self._rules.weights, self._clock, self._rules.shadow)
        try:
            reply = await self._auction(auction, request, caller, recorder)
        except BilletError as error:
            recorder.failed(error)
            raise
        finally:
            self._record(recorder)
        return reply

    async def _auction(self, auction: Auction, request: bytes, caller: Caller, recorder: AuctionRecorder) -> bytes:
        if hopeless(auction):
            return await self._verdict(auction, request, caller)
        known = self._ledger.state.placements.get(auction.id)
        if known and (reply := await self._resume(known, auction, request, caller, recorder)):
            return reply
        self._keep_quota(auction)
        answers = await self._first_bids(auction, recorder)
        waited_for: set[str] = set()
        while True:
            slot = await self._clearing.slot(auction, answers)
            views, decision = self._decide(auction, answers)
            recorder.decided(answers, views, decision, slot)
            if isinstance(decision, Unplaced):
                more = await self._more_bids(auction, answers, waited_for)
                if more:
                    heard = {answer.host for answer in more}
                    answers = [answer for answer in answers if answer.host not in heard] + more
                    continue
                if await self._another_comes(caller):
                    answers = await self._first_bids(auction, recorder)
                    continue
                return await self._unplaced(auction, decision, request, caller)
            if caller.gone:
                raise _given_up()
            self._keep_quota(auction)  # others have claimed since; from here to our own claim nobody does
            self._watch(auction, answers, views, decision)
            placement = self._placement(auction, decision)
            with self._ledger.hold(placement.id):
                outcome = await self._carry_out(placement, auction, request, caller, recorder)
            if isinstance(outcome, bytes):
                return outcome
            answers = [outcome if a.host == outcome.host else a for a in answers]

    async def _carry_out(
        self, placement: Placement, auction: Auction, request: bytes, caller: Caller, recorder: AuctionRecorder
    ) -> bytes | Refusal:
        """Reserve, tell the host, commit what became of it. A Refusal means that another host may be asked."""
        ledger = self._ledger
        with self._clearing.claiming(placement):
            await ledger.claim([PutPlacement(placement)])
        recorder.leg("reserve")
        if caller.gone:
            await ledger.finish([DropPlacement(placement.id)])
            raise _given_up()
        return await self._order(placement, auction, request, caller, recorder, again=False)

    async def _order(
        self,
        placement: Placement,
        auction: Auction,
        request: bytes,
        caller: Caller,
        recorder: AuctionRecorder,
        again: bool,
    ) -> bytes | Refusal:
        ledger, options = self._ledger, CreateOptions(placement.instance, again)
        outcome = await self._hosts.create(placement.host, auction, request, self._timeout_s(caller), options)
        recorder.leg("boot_order")
        match outcome:
            case Created(uid, reply):
                await self._started(placement, uid)
                recorder.leg("start")
                recorder.created(placement.host, uid)
                return reply
            case Denied(code, text):
                await ledger.finish([DropPlacement(placement.id)])
                raise HostVerdict(code, text)
            case NotTaken(refusal):
                await ledger.finish([DropPlacement(placement.id)])
                return refusal
            case Unknown(text):
                # The reservation stays: the host may have the microVM, and is asked for its token (promise 4).
                raise CreateOutcomeUnknown(
                    f"host {placement.host} may or may not have taken {auction.namespace}/{auction.name}: {text}; "
                    "it is not tried elsewhere before this is known: list the namespace before you create it again"
                )

    async def _resume(
        self, known: Placement, auction: Auction, request: bytes, caller: Caller, recorder: AuctionRecorder
    ) -> bytes | None:
        """A create that was sent again: finish what an earlier leader began, on the same host and no other.

        None when it surely came to nothing, so that a new auction may be held.
        """
        match known.state:
            case PlacementState.RESERVED:
                with self._ledger.hold(known.id):
                    outcome = await self._order(known, auction, request, caller, recorder, again=True)
                return outcome if isinstance(outcome, bytes) else None
            case PlacementState.STARTED:
                reply = await self._hosts.get(known.host, known.uid, self._rules.call_timeout_s)
                if reply.code == Code.OK:
                    recorder.created(known.host, known.uid)
                    return reply.payload
                if not says_not_found(reply.text):
                    raise Unreachable(
                        f"host {known.host} does not say what became of microVM {known.uid}: {reply.text}"
                    )
        raise _gone_since(known)

    async def _started(self, placement: Placement, uid: str) -> None:
        started = replace(placement, state=PlacementState.STARTED, uid=uid, changed_at_s=self._clock.now_s())
        try:
            await self._ledger.finish([PutPlacement(started)])
        except StoreError as error:
            raise CreateOutcomeUnknown(
                f"microVM {uid} runs on host {placement.host}, but the store did not take the record ({error.text}); "
                "it is listed as soon as the store does"
            ) from error

    async def delete(self, uid: str, method: str, request: bytes) -> bytes:
        """Pass a Delete on to the host that has the microVM. Room comes back when the host no longer shows it."""
        placement = self._ledger.state.of_uid(uid)
        if placement is None:
            raise Unreachable(f"microVM {uid} is on no host that Billet knows")
        with self._ledger.hold(placement.id):
            reply = await self._hosts.call(placement.host, method, request, self._rules.call_timeout_s)
            if reply.code == Code.OK and placement.state is PlacementState.STARTED:
                releasing = replace(placement, state=PlacementState.RELEASING, changed_at_s=self._clock.now_s())
                await self._ledger.claim([PutPlacement(releasing)])
        if reply.code != Code.OK:
            raise HostVerdict(reply.code, reply.text)
        return reply.payload

    # The steps of an auction, each a line of `_auction`.

    def _keep_quota(self, auction: Auction) -> None:
        """Raise NoRoom for a namespace that may not have this as well. What it has is what the ledger has claimed."""
        taken = self._ledger.state.in_namespace(auction.namespace)
        over = exceeded(self._rules.quotas, auction.namespace, taken, auction.demand)
        if over:
            raise NoRoom(over)

    async def _first_bids(self, auction: Auction, recorder: AuctionRecorder) -> list[Bid | Refusal]:
        recorder.record.called = self._called()
        answers = await self._ask(auction, set())
        recorder.leg("bids")
        return answers

    async def _more_bids(
        self, auction: Auction, answers: list[Bid | Refusal], waited_for: set[str]
    ) -> list[Bid | Refusal]:
        """When none of the first could: the next hosts, else those that were too slow and have room, once more.

        The first bids do not wait for slow hosts, and may all be overtaken by other auctions' awards.
        """
        more = await self._ask(auction, {answer.host for answer in answers})
        slow = [a.host for a in answers if isinstance(a, Refusal) and a.reason is Reason.SILENT]
        again = [h for h in slow if h not in waited_for and self._may_have(h, auction)]
        if more or not again:
            return more
        heard = await self._hosts.call_for_bids(auction, again)
        if not any(isinstance(answer, Bid) for answer in heard):  # a bid ends the waiting, and may be overtaken too
            waited_for.update(again)
        return heard

    async def _another_comes(self, caller: Caller) -> bool:
        """Wait for the next host rather than say no: early in a reign, and for the first ones of a new fleet."""
        hosts, arrive_s = self._ledger.state.hosts, self._rules.arrive_s
        left_s = self._arrived_by_s - self._clock.monotonic_s()
        if not hosts and self._ready.coming:
            left_s = arrive_s  # they are being written down
        left_s = min(left_s, caller.timeout_s)
        missing = len(self._ready) < max(len(hosts), 1)
        return missing and left_s > 0 and await self._ready.next_one(left_s)

    async def _ask(self, auction: Auction, asked: set[str]) -> list[Bid | Refusal]:
        state, ask = self._ledger.state, self._rules.ask_hosts
        answers: list[Bid | Refusal] = []
        if ask and len(state.hosts) > ask:
            host_ids = self._shortlist(auction, asked)
        else:
            host_ids = [host_id for host_id in self._ready if host_id not in asked]
            if auction.constraints != NO_CONSTRAINTS:  # what the ledger knows, no host has to be asked
                answers += [no for host_id in host_ids if (no := state.excluded_by(host_id, auction))]
                barred = {no.host for no in answers}
                host_ids = [host_id for host_id in host_ids if host_id not in barred]
        return answers + (await self._hosts.call_for_bids(auction, host_ids) if host_ids else [])

    def _called(self) -> Called:
        hosts, most = self._ledger.state.hosts, self._rules.ask_hosts
        if most and len(hosts) > most:
            return Called(len(hosts), most)
        return Called(len(hosts), absent=tuple(host_id for host_id in hosts if host_id not in self._ready))

    def _shortlist(self, auction: Auction, asked: set[str]) -> list[str]:
        """The hosts of a large fleet that are worth asking, those that the soft wishes prefer among them."""
        state, ask = self._ledger.state, self._rules.ask_hosts

        def fits(host_id: str) -> bool:
            return host_id in self._ready and host_id not in asked and self._may_have(host_id, auction)

        if only := auction.constraints.host:
            return [only] if fits(only) else []
        rules, constraints = self._rules, auction.constraints
        near = list(islice(filter(fits, state.peer_hosts(auction)), ask))
        asked = asked.union(near)
        fullest_first = named(rules.weights.under(constraints.policy).policy).fullest_first
        ask = max(1, ask - len(near))
        even = state.ranking.of_each_zone(auction.id, ask, fits, fullest_first) if constraints.spreads else []
        asked = asked.union(even)
        rest = ask - len(even)
        ranked = state.ranking.shortlist(auction.id, rest, rules.ask_random, fits, fullest_first, constraints.zone)
        return near + even + ranked

    def _may_have(self, host_id: str, auction: Auction) -> bool:
        """Whether the ledger knows nothing against a host."""
        state = self._ledger.state
        return state.room(host_id).covers(auction.demand) and state.excluded_by(host_id, auction) is None

    def _decide(self, auction: Auction, answers: list[Bid | Refusal]) -> tuple[dict[str, HostView], Award | Unplaced]:
        views = self._ledger.state.views((answer.host for answer in answers), auction)
        if self._accuracy:
            views = self._accuracy.discounted(views)
        return views, award(auction, answers, views, self._rules.weights)

    def _watch(
        self, auction: Auction, answers: list[Bid | Refusal], views: dict[str, HostView], decision: Award
    ) -> None:
        """What the winning bid foretells will be held against what comes."""
        bid = next((a for a in answers if isinstance(a, Bid) and a.host == decision.host), None)
        if self._accuracy and bid:
            self._accuracy.awarded(auction, bid, views[decision.host])

    def _placement(self, auction: Auction, decision: Award) -> Placement:
        return Placement(
            id=auction.id,
            namespace=auction.namespace,
            name=auction.name,
            demand=auction.demand,
            host=decision.host,
            state=PlacementState.RESERVED,
            labels=auction.labels,
            score=decision.score.total,
            runner_up=decision.runner_up or "",
            changed_at_s=self._clock.now_s(),
            instance=self._hosts.instance(decision.host),
        )

    async def _unplaced(self, auction: Auction, decision: Unplaced, request: bytes, caller: Caller) -> bytes:
        """No host will: say why, or have a host say it where it is not a matter of room."""
        refusals = self._all_refusals(auction, decision)
        if refusals and all(refusal.reason in CAPABILITY_REASONS for refusal in refusals):
            return await self._verdict(auction, request, caller)
        whole = Unplaced(tuple(refusals))
        text = explain_unplaced(auction, whole)
        if merely_away(whole):
            raise Unreachable(text)
        raise NoRoom(text)

    def _all_refusals(self, auction: Auction, decision: Unplaced) -> list[Refusal]:
        """What was answered, and for every host that did not answer what the ledger says. O(fleet), for a no only."""
        state = self._ledger.state
        answered = {refusal.host: refusal for refusal in decision.refusals}
        refusals = []
        for host_id, host in state.hosts.items():
            refusal = answered.get(host_id, Refusal(host_id, Reason.AWAY))
            if refusal.reason in AWAY_REASONS:
                taken = state.taken.get(host_id, ZERO)
                full = no_room(host_id, host.allocatable, taken, auction.demand)
                refusal = state.excluded_by(host_id, auction) or full or refusal
            refusals.append(refusal)
        return refusals

    async def _verdict(self, auction: Auction, request: bytes, caller: Caller) -> bytes:
        """A request that every flintlockd refuses: have one say so in its own words. No auction, no reservation."""
        if not len(self._ready):
            await self._another_comes(caller)
        for host_id in sorted(self._ready, key=lambda host_id: tie_break(auction.id, host_id))[:3]:
            options = CreateOptions(verdict_only=True)
            outcome = await self._hosts.create(host_id, auction, request, self._timeout_s(caller), options)
            match outcome:
                case Denied(code, text):
                    raise HostVerdict(code, text)
                case Unknown(text):
                    raise CreateOutcomeUnknown(f"host {host_id} did not answer: {text}")
        raise Unreachable("no host could be asked whether it accepts this request; try again when a host is back")

    def _timeout_s(self, caller: Caller) -> float:
        return min(self._rules.create_timeout_s, caller.timeout_s)


def _gone_since(known: Placement) -> BilletError:
    return PreconditionFailed(
        f"this request has made microVM {known.uid or known.id} already, which is {known.state.value} now; "
        "send a new request id to have another"
    )


def _given_up() -> BilletError:
    return Cancelled("the client gave up before a host was told; nothing was created")
