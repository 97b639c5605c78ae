"""Maintenance of etcd: compacts its history, defragments its files, and disarms its space alarm.

etcd keeps every version of every key until it is compacted, and its file never shrinks until it is defragmented,
which blocks that member for about 2 ms per MB. At its quota (2 GB by default) it takes no more writes until space is
freed and the alarm disarmed. The leader does all three. While nobody can lead for lack of space, every server does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import structlog

from billet import store_watch
from billet.core.errors import HistoryCompacted, StoreError
from billet.store.engine import Vitals
from billet.store.etcd_client import EtcdClient
from billet.wire.pb import etcd_rpc_pb2 as pb

log = structlog.get_logger()

LOOK_S = 5.0  # interval between checks of the members
KEEP_REVISIONS = 10_000  # a watch for the next leader can catch up on these; beyond, it starts anew
COMPACT_EVERY_REVISIONS = 100_000  # about 50 MB of placements
COMPACT_EVERY_S = 60.0
COMPACT_AT_LEAST_REVISIONS = 1_000  # an idle etcd is left alone
SLACK_BYTES = 100 << 20  # unused bytes that a file may have; defragmenting for less is not worth it
DEFRAGMENT_EVERY_S = 60.0  # one member at a time, with time to catch up in between
DEFRAGMENT_S = 120.0  # deadline for one member
FULL_HISTORY_REVISIONS = 100  # revisions that a full etcd may keep
FULL_GAIN = 0.9  # the alarm is disarmed when the file is smaller than this share of its size when full


class Member(NamedTuple):
    """One member's own status."""

    at: int  # index of its endpoint
    id: int
    revision: int
    size_bytes: int
    used_bytes: int
    leads: bool  # is etcd's own leader
    full: bool  # has raised the space alarm


class Done(NamedTuple):
    """The maintenance done so far. Times are monotonic."""

    compacted: int = 0  # up to this revision
    compacted_s: float = -COMPACT_EVERY_S
    defragmented_s: float = -DEFRAGMENT_EVERY_S
    full_bytes: int = 0  # the largest file when the alarm was first seen; 0 = no alarm
    defragmented: frozenset[int] = frozenset()  # indexes of endpoints defragmented since then


class Plan(NamedTuple):
    """The next step of maintenance."""

    compact: int = 0  # up to this revision
    defragment: int | None = None  # the member at this endpoint
    disarm: bool = False


NOTHING = Plan()


def due(members: Sequence[Member], all_answered: bool, done: Done, now_s: float) -> Plan:
    """The next step, one at a time. `all_answered`: every endpoint has answered."""
    if not members:
        return NOTHING
    revision = max(member.revision for member in members)
    if any(member.full for member in members):
        return _make_room(members, revision, done)
    fresh = revision - KEEP_REVISIONS - done.compacted
    if fresh >= COMPACT_EVERY_REVISIONS or (
        fresh >= COMPACT_AT_LEAST_REVISIONS and now_s - done.compacted_s >= COMPACT_EVERY_S
    ):
        return Plan(compact=revision - KEEP_REVISIONS)
    wasteful = [member for member in members if _wastes(member)]
    if wasteful and all_answered and now_s - done.defragmented_s >= DEFRAGMENT_EVERY_S:
        return Plan(defragment=_first(wasteful))
    return NOTHING


def _make_room(members: Sequence[Member], revision: int, done: Done) -> Plan:
    """For a full etcd: compact, then defragment every member, then disarm the alarm if that freed space."""
    if done.compacted < revision - FULL_HISTORY_REVISIONS:
        return Plan(compact=revision)
    left = [member for member in members if member.at not in done.defragmented]
    if left:  # every member: without writes, etcd does not report the space that compaction freed
        return Plan(defragment=_first(left))
    return Plan(disarm=max(member.size_bytes for member in members) < FULL_GAIN * done.full_bytes)


def _wastes(member: Member) -> bool:
    return member.size_bytes - member.used_bytes >= SLACK_BYTES and member.size_bytes >= 2 * member.used_bytes


def _first(members: Sequence[Member]) -> int:
    """The endpoint to defragment next. etcd's leader comes last, because it holds up all others."""
    return min(members, key=lambda member: (member.leads, member.at)).at


def vitals(statuses: Collection[pb.StatusResponse | None], term: int) -> Vitals:
    """The members' statuses as one ports.Vitals; None in place of an endpoint that did not answer."""
    there = [status for status in statuses if status]
    troubles = []
    if len(there) < len(statuses):
        troubles.append(f"{len(statuses) - len(there)} of {len(statuses)} etcd endpoints are not responding")
    troubles += sorted({f"etcd reports: {error}" for status in there for error in status.errors})
    largest = max(there, key=lambda status: status.dbSize, default=pb.StatusResponse())
    versions = " and ".join(sorted({status.version for status in there}))
    return Vitals(f"etcd {versions}", term, largest.dbSize, largest.dbSizeInUse, tuple(troubles))


def health(endpoint: str, status: pb.StatusResponse | None) -> store_watch.Member:
    """A member's status as an store_watch.Member; None = it did not answer."""
    if status is None:
        return store_watch.Member(endpoint, answers=False)
    leads = bool(status.leader) and status.leader == status.header.member_id
    used_bytes = status.dbSizeInUse or status.dbSize
    return store_watch.Member(endpoint, True, leads, status.version, status.dbSize, used_bytes)


class Care:
    """Checks the members regularly and does the maintenance that is due."""

    def __init__(
        self, client: EtcdClient, in_charge: Callable[[], Awaitable[bool]], count: Callable[[], int] = lambda: 0
    ) -> None:
        """`in_charge`: whether this server should act, because it leads or nobody does.

        `count`: the number of etcd's members, 0 = unknown.
        """
        self._count = count
        self._client = client
        self._in_charge = in_charge
        self._done = Done()
        self._said_full = False

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                acted = await self.look()
            except StoreError as error:
                log.warning("etcd maintenance failed; retrying", error=error.text)
                acted = False
            except Exception:  # maintenance must go on, whatever the error
                log.exception("etcd maintenance failed")
                acted = False
            await asyncio.sleep(0.0 if acted else LOOK_S)

    async def look(self) -> bool:
        """Do the next step; returns whether there was one."""
        statuses = await self._client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        members = members_of(statuses)
        self._note_alarm(members)
        # An endpoint that is configured may belong to no member any more, and must not stop the maintenance.
        complete = all(statuses.values()) or len(members) >= (self._count() or len(statuses))
        plan = due(members, complete, self._done, time.monotonic())
        if plan == NOTHING:
            self._say_full()
            return False
        if not await self._in_charge():
            return False
        if plan.compact:
            await self._compact(plan.compact)
        if plan.defragment is not None:
            await self._defragment(plan.defragment)
        if plan.disarm:
            await self._disarm(max(member.size_bytes for member in members))
        return True

    def _note_alarm(self, members: Sequence[Member]) -> None:
        full = any(member.full for member in members)
        if not full:
            self._done, self._said_full = self._done._replace(full_bytes=0), False
        elif not self._done.full_bytes:
            largest = max(member.size_bytes for member in members)
            log.warning("etcd is out of space", largest_bytes=largest)
            self._done = self._done._replace(full_bytes=largest, defragmented=frozenset())

    def _say_full(self) -> None:
        if self._done.full_bytes and not self._said_full:
            self._said_full = True
            log.error(
                "etcd is full and all of it is in use: raise its --quota-backend-bytes, then run etcdctl alarm disarm"
            )

    async def _compact(self, revision: int) -> None:
        """Compact. For a full etcd, physically: etcd then answers only when the space is free."""
        self._done = self._done._replace(compacted=revision, compacted_s=time.monotonic())
        request = pb.CompactionRequest(revision=revision, physical=bool(self._done.full_bytes))
        try:
            await self._client.steady("KV/Compact", request, pb.CompactionResponse, timeout_s=DEFRAGMENT_S)
        except HistoryCompacted:  # another server has compacted further
            return
        log.debug("etcd compacted", up_to_revision=revision)

    async def _defragment(self, at: int) -> None:
        self._done = self._done._replace(defragmented_s=time.monotonic(), defragmented=self._done.defragmented | {at})
        self._client.leave(at)
        began_s = time.monotonic()
        await self._client.ask(
            at, "Maintenance/Defragment", pb.DefragmentRequest(), pb.DefragmentResponse, DEFRAGMENT_S
        )
        took_s = round(time.monotonic() - began_s, 3)
        log.info("etcd member defragmented", endpoint=self._client.endpoints[at], took_s=took_s)

    async def _disarm(self, size_bytes: int) -> None:
        """Disarm the alarm. If it returns, the file must shrink again before the next time."""
        self._done = self._done._replace(full_bytes=size_bytes, defragmented=frozenset())
        alarms = await self._client.call("Maintenance/Alarm", pb.AlarmRequest(), pb.AlarmResponse)
        for alarm in alarms.alarms:
            if alarm.alarm == pb.NOSPACE:
                off = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=pb.NOSPACE)
                await self._client.steady("Maintenance/Alarm", off, pb.AlarmResponse)
        log.warning("etcd has space again: alarm disarmed")


def members_of(statuses: Mapping[int, pb.StatusResponse | None]) -> list[Member]:
    """The members behind the endpoints, without duplicates. `statuses` by index of the endpoint."""
    members: dict[int, Member] = {}
    for at, status in statuses.items():
        if status:
            header = status.header
            members.setdefault(
                header.member_id,
                Member(
                    at,
                    header.member_id,
                    header.revision,
                    status.dbSize,
                    status.dbSizeInUse or status.dbSize,
                    status.leader == header.member_id,
                    any("NOSPACE" in error for error in status.errors),
                ),
            )
    return list(members.values())
