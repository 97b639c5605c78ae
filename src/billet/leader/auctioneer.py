"""Create and delete, from request to reply: ask for bids, award, commit, tell the winner, answer; commit behind it.

`create` is the straight line: read it from top to bottom. One coroutine per auction is the auction's state machine.
The decisions are pure functions in core/ (shortlist, auction); batching is done below, in batching.py, the link and
the store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from billet.core.auction import award, explain_unplaced, hopeless, reservation, some_unreachable, tie_break
from billet.core.bidding import CAPABILITY_REASONS
from billet.core.constraints import unmet
from billet.core.errors import (
    BilletError,
    Code,
    CreateOutcomeUnknown,
    HostVerdict,
    NoRoom,
    Unreachable,
    says_not_found,
)
from billet.core.metadata import Metadata
from billet.core.model import Auction, Award, Bid, HostView, Placement, PlacementState, Refusal, Unplaced
from billet.core.quotas import exceeded
from billet.core.shortlist import (
    AskLimits,
    Moment,
    all_refusals,
    called,
    decides_unasked,
    next_call,
    to_ask_again,
    with_standing_bids,
)
from billet.core.state import DropPlacement, PutPlacement
from billet.leader.accuracy import AccuracyTracker
from billet.leader.batching import Clearing
from billet.leader.behind import Behind
from billet.leader.deletes import DeleteRecords
from billet.leader.health import HealthTracker
from billet.leader.jobs import Caller, Job, given_up, gone_since, host_verdict
from billet.leader.ledger import Ledger
from billet.leader.presence import Presence
from billet.leader.recorder import AuctionRecorder
from billet.leader.rules import Rules
from billet.ports import Clock, Created, CreateOptions, Denied, Ended, Failed, Hosts, NotTaken, Unknown

ASKED_FOR_VERDICT = 3  # hosts that are tried, one after another, for flintlockd's own words


class Auctioneer:
    """Holds auctions and carries out their awards, for one term."""

    def __init__(
        self,
        ledger: Ledger,
        hosts: Hosts,
        ready: Presence,
        rules: Rules,
        clock: Clock,
        record: Callable[[AuctionRecorder], None],
        accuracy: AccuracyTracker | None = None,
        health: HealthTracker | None = None,
    ) -> None:
        self._ledger = ledger
        self._hosts = hosts
        self._ready = ready
        self._rules = rules
        self._limits = AskLimits(rules.ask_hosts, rules.ask_random, rules.weights, not rules.call_for_bids)
        self._clock = clock
        self._record = record
        self._accuracy = accuracy
        self._health = health or HealthTracker(ledger.state, clock, rules.suspect_share)
        self._clearing = Clearing(ledger.state, ready)
        self.behind = Behind(ledger)
        self._delete_records = DeleteRecords(ledger, self.behind, self._releasing)
        self._arrived_by_s = clock.monotonic_s() + rules.arrive_s

    async def create(self, auction: Auction, request: bytes, caller: Caller) -> bytes:
        """Create one microVM; return flintlockd's own reply without the token. Raises BilletError."""
        recorder = AuctionRecorder(auction, self._rules.weights, self._clock, self._rules.shadow)
        try:
            reply = await self._create(Job(auction, request, caller, recorder))
        except BilletError as error:
            recorder.failed(error)
            raise
        finally:
            self._record(recorder)
        return reply

    async def _create(self, job: Job) -> bytes:
        if hopeless(job.auction):
            return await self._verdict(job)
        async with self._ledger.hold(job.auction.id):
            return await self._auction(job)

    async def _auction(self, job: Job) -> bytes:
        """Resume what an earlier attempt has begun, or hold an auction. The placement is in hand all the time."""
        known = self._ledger.state.placements.get(job.auction.id)
        if known and (reply := await self._resume(known, job)):
            return reply
        self._check_quota(job.auction)
        answers = await self._first_bids(job)
        waited_for: set[str] = set()  # hosts that were asked a second time and did not bid
        while True:
            views, decision = await self._decide(job, answers)
            if isinstance(decision, Unplaced):
                more = await self._more_bids(job, answers, waited_for)
                if more is None:
                    return await self._unplaced(job, decision)
                answers = more
                continue
            if job.caller.gone:
                raise given_up()
            self._check_quota(job.auction)  # again: others have claimed since. No await until our own claim
            self._track(job, views, decision)
            instance = self._hosts.instance(decision.host)
            placement = reservation(job.auction, decision, instance, self._clock.now_s())
            with self._health.order(job.auction, decision.host):
                outcome = await self._carry_out(placement, job)
            if isinstance(outcome, bytes):
                return outcome
            answers = [*(answer for answer in answers if answer.host != outcome.host), outcome]

    # The steps, in the order in which `_create` takes them.

    def _check_quota(self, auction: Auction) -> None:
        """Raise NoRoom if the namespace's claims in the ledger and this microVM together exceed its quota."""
        taken = self._ledger.state.in_namespace(auction.namespace)
        if over := exceeded(self._rules.quotas, auction.namespace, taken, auction.demand):
            raise NoRoom(over)

    async def _first_bids(self, job: Job) -> list[Bid | Refusal]:
        job.recorder.record.called = called(self._moment, self._limits)
        answers: list[Bid | Refusal] = []
        if not decides_unasked(self._moment, job.auction, self._limits):
            answers = await self._ask_next(job, job.failed.keys())
        job.recorder.leg("bids")
        return job.refusals() + answers

    async def _ask_next(self, job: Job, asked: Collection[str]) -> list[Bid | Refusal]:
        job.moves = self._ledger.state.fleet.moves
        host_ids, refusals = next_call(self._moment, job.auction, asked, self._limits)
        return refusals + (await self._hosts.call_for_bids(job.auction, host_ids) if host_ids else [])

    @property
    def _moment(self) -> Moment:
        state = self._ledger.state
        return Moment(state, self._ready.rows(state.fleet), self._clock.monotonic_s(), self._health.surcharges())

    async def _decide(self, job: Job, answers: list[Bid | Refusal]) -> tuple[dict[str, HostView], Award | Unplaced]:
        """Wait for a slot, then award. No await after the slot: the ledger must not move before the claim."""
        slot = await self._clearing.slot(job.auction, answers)
        moved = job.moves != self._ledger.state.fleet.moves
        answers = with_standing_bids(self._moment, job.auction, answers, self._limits, moved)
        answers = self._health.screened(job.auction, answers, self._ready)
        views = self._ledger.state.views((answer.host for answer in answers), job.auction)
        if self._accuracy:
            views = self._accuracy.discounted(views)
        views = self._health.troubled(views)
        decision = award(job.auction, answers, views, self._rules.weights)
        job.recorder.decided(answers, views, decision, slot)
        return views, decision

    async def _more_bids(
        self, job: Job, answers: list[Bid | Refusal], waited_for: set[str]
    ) -> list[Bid | Refusal] | None:
        """The answers to decide on next, when none of these could win; None when no host is left to ask.

        First the next hosts; then the silent ones that have room, once more: the first call does not wait for slow
        hosts, and other auctions may have overtaken every bid. Last, hosts that are about to connect.
        """
        more = await self._ask_next(job, {answer.host for answer in answers})
        if more := more or await self._ask_again(job.auction, answers, waited_for):
            heard = {answer.host for answer in more}
            return [answer for answer in answers if answer.host not in heard] + more
        return await self._first_bids(job) if await self._another_comes(job.caller) else None

    async def _ask_again(
        self, auction: Auction, answers: list[Bid | Refusal], waited_for: set[str]
    ) -> list[Bid | Refusal]:
        silent = to_ask_again(self._ledger.state, self._ready, auction, answers, waited_for)
        if not silent:
            return []
        heard = await self._hosts.call_for_bids(auction, silent, wait=True)
        if not any(isinstance(answer, Bid) for answer in heard):  # with a bid: it may be overtaken, so ask once more
            waited_for.update(silent)
        return heard

    async def _another_comes(self, caller: Caller) -> bool:
        """Wait for the next host: early in a term, and while the first host of a new fleet is being committed."""
        hosts, arrive_s = self._ledger.state.hosts, self._rules.arrive_s
        left_s = self._arrived_by_s - self._clock.monotonic_s()
        if not hosts and self._ready.coming:
            left_s = arrive_s
        left_s = min(left_s, caller.timeout_s)
        missing = len(self._ready) < max(len(hosts), 1)
        return missing and left_s > 0 and await self._ready.next_one(left_s)

    def _track(self, job: Job, views: dict[str, HostView], decision: Award) -> None:
        """Have the winning bid's forecast compared with the actual boot."""
        bid = next(bid for bid in job.recorder.record.attempts[-1].bids if bid.host == decision.host)
        if self._accuracy:
            self._accuracy.awarded(job.auction, bid, views[decision.host])

    async def _carry_out(self, placement: Placement, job: Job) -> bytes | Refusal:
        """Commit the reservation, then order the boot. A Refusal means that another host may be asked."""
        ledger = self._ledger
        with self._clearing.claiming(placement):
            await ledger.claim([PutPlacement(placement)])
        job.recorder.leg("reserve")
        if job.caller.gone:
            await ledger.finish([DropPlacement(placement.id)])
            raise given_up()
        return await self._order(placement, job, resent=False)

    async def _order(self, placement: Placement, job: Job, resent: bool) -> bytes | Refusal:
        """Tell the host, and commit the outcome; that it has the microVM, behind the reply."""
        ledger, auction = self._ledger, job.auction
        options, timeout_s = CreateOptions(placement.instance, resent), self._timeout_s(job.caller)
        outcome = await self._hosts.create(placement.host, auction, job.request, timeout_s, options)
        self._health.answered(auction.id, placement.host, outcome)
        job.recorder.leg("boot_order")
        match outcome:
            case Created(uid, reply):
                await self._started(placement, uid)
                job.recorder.created(placement.host, uid)
                return reply
            case Denied():
                await ledger.finish([DropPlacement(placement.id)])
                raise host_verdict(outcome)
            case Failed():
                await ledger.finish([DropPlacement(placement.id)])
                return job.failed_on(placement.host, outcome)
            case NotTaken(refusal):
                await ledger.finish([DropPlacement(placement.id)])
                return refusal
            case Ended(uid):  # deleted before any leader had recorded its uid
                ended = replace(placement, state=PlacementState.RELEASING, uid=uid)
                await ledger.finish_answered(ended)
                raise gone_since(ended)
            case Unknown(text):
                # The reservation stays: the host may have the microVM, and is asked for its token (promise 4).
                raise CreateOutcomeUnknown(
                    f"host {placement.host} may or may not have taken {auction.namespace}/{auction.name}: {text}. "
                    "Billet tries no other host until it knows; list the namespace before you create it again"
                )

    async def _started(self, placement: Placement, uid: str) -> None:
        """The ledger knows the microVM from now on; the record is written behind the reply (docs/adr/0041)."""
        made = replace(placement, state=PlacementState.STARTED, uid=uid, changed_at_s=self._clock.now_s())
        noted = self._ledger.note_answered(made)
        if noted:
            self.behind.write("create", noted, partial(self._ledger.keep, noted))
        else:
            await self._ledger.finish_answered(made)

    # The other ends of a create.

    async def _resume(self, known: Placement, job: Job) -> bytes | None:
        """A create that was sent again: finish what an earlier leader began, on the same host and no other.

        None when the earlier attempt certainly failed, so that a new auction may be held.
        """
        match known.state:
            case PlacementState.RESERVED:
                outcome = await self._order(known, job, resent=True)
                return outcome if isinstance(outcome, bytes) else None
            case PlacementState.STARTED:
                reply = await self._hosts.get(known.host, known.uid, self._rules.call_timeout_s)
                if reply.code == Code.OK:
                    job.recorder.created(known.host, known.uid)
                    return reply.payload
                if not says_not_found(reply.text):
                    raise Unreachable(
                        f"host {known.host} does not say what became of microVM {known.uid}: {reply.text}"
                    )
        raise gone_since(known)

    async def _unplaced(self, job: Job, decision: Unplaced) -> bytes:
        """No host takes it: raise NoRoom or Unreachable with the reasons, or have a host say that none is capable."""
        if job.failed:
            raise job.last_failure()
        unplaced = all_refusals(self._ledger.state, job.auction, decision)
        if unplaced.refusals and all(refusal.reason in CAPABILITY_REASONS for refusal in unplaced.refusals):
            return await self._verdict(job)
        job.recorder.reasons.update(refusal.reason for refusal in unplaced.refusals)
        text = explain_unplaced(
            job.auction, unplaced, unmet(self._ledger.state.hosts.values(), job.auction.constraints)
        )
        if some_unreachable(unplaced):
            raise Unreachable(text)
        raise NoRoom(text)

    async def _verdict(self, job: Job) -> bytes:
        """Have a host refuse, in flintlockd's words, a request that every flintlockd refuses. No reservation."""
        if not len(self._ready):
            await self._another_comes(job.caller)
        order = sorted(self._ready, key=lambda host_id: tie_break(job.auction.id, host_id))
        options = CreateOptions(verdict_only=True)
        for host_id in order[:ASKED_FOR_VERDICT]:
            timeout_s = self._timeout_s(job.caller)
            outcome = await self._hosts.create(host_id, job.auction, job.request, timeout_s, options)
            match outcome:
                case Denied():
                    raise host_verdict(outcome)
                case Unknown(text):
                    raise CreateOutcomeUnknown(f"host {host_id} did not answer: {text}")
        raise Unreachable("no connected host could say whether it accepts this request; retry when one is back")

    def _timeout_s(self, caller: Caller) -> float:
        return min(self._rules.create_timeout_s, caller.timeout_s)

    async def delete(self, uid: str, method: str, request: bytes, metadata: Metadata = ()) -> bytes:
        """Pass a Delete on to the microVM's host. Its room is free once the host no longer shows it.

        Its agent passes it on unless flintlockd says that it deletes the microVM already.
        """
        ledger = self._ledger
        known = ledger.state.of_uid(uid)
        if known is None:
            raise Unreachable(f"microVM {uid} is on no host that Billet knows")
        async with ledger.hold(known.id):
            await ledger.written(known.id)  # an agent that is restarted forgets what no leader has recorded
            placement = ledger.state.of_uid(uid) or known
            reply = await self._hosts.call(placement.host, method, request, self._rules.call_timeout_s, metadata)
            if reply.code == Code.OK:
                await self._delete_records.write(placement)
        if reply.code != Code.OK:
            raise HostVerdict(reply.code, reply.text, reply.trailers)
        return reply.payload

    async def deleted(self, uid: str) -> None:
        """Record a Delete that the host accepted before the ledger knew the microVM. Errors as above."""
        await self._ledger.deleted(uid)
        if known := self._ledger.state.of_uid(uid):
            async with self._ledger.hold(known.id):
                await self._delete_records.write(known)

    def _releasing(self, known: Placement) -> Placement:
        """What a Delete makes of a placement. Only one that is STARTED is released by it."""
        if known.state is not PlacementState.STARTED:
            return known
        return replace(known, state=PlacementState.RELEASING, changed_at_s=self._clock.now_s())
