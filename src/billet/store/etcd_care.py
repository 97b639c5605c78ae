"""etcd looked after: its history is cut, its files are packed, and when it was full and has room again it is told so.

etcd keeps every version of every key until it is compacted, and its file never shrinks until it is defragmented,
which stops that member for about 2 ms per MB. At its quota (2 GB by default) it takes no more writes until somebody
has made room and disarmed the alarm. The leader does all three; while nobody can lead for want of space, everybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from billet.core.errors import HistoryCompacted, StoreError
from billet.ports import Vitals
from billet.store.etcd_client import EtcdClient
from billet.wire.pb import etcd_rpc_pb2 as pb

log = structlog.get_logger()

LOOK_S = 5.0  # between two looks at the members
KEEP_REVISIONS = 10_000  # what a watch for the next leader can catch up on; beyond, it looks anew
CUT_EVERY_REVISIONS = 100_000  # about 50 MB of placements
CUT_EVERY_S = 60.0
CUT_AT_LEAST_REVISIONS = 1_000  # an idle etcd is left alone
SLACK_BYTES = 100 << 20  # what a file may waste; defragmenting one that wastes less gains nothing
PACK_EVERY_S = 60.0  # members are packed one at a time, with time to catch up in between
PACK_S = 120.0  # the longest for one
FULL_HISTORY_REVISIONS = 100  # what a full etcd may keep
FULL_GAIN = 0.9  # of its size when it was full: what a file must have come below before the alarm is disarmed


class Member(NamedTuple):
    """One member as it says of itself."""

    at: int  # its place among the endpoints
    id: int
    revision: int
    size_bytes: int
    used_bytes: int
    leads: bool  # in etcd's own election
    full: bool  # it has raised the alarm


class Done(NamedTuple):
    """What was done so far. Times are monotonic."""

    compacted: int = 0  # up to which revision
    compacted_s: float = -CUT_EVERY_S
    packed_s: float = -PACK_EVERY_S
    full_bytes: int = 0  # the largest file when the alarm was first seen; 0 while there is none
    packed: frozenset[int] = frozenset()  # the endpoints packed since then


class Plan(NamedTuple):
    """What is to be done now."""

    compact: int = 0  # up to this revision
    pack: int | None = None  # the member at this endpoint
    disarm: bool = False


NOTHING = Plan()


def due(members: Sequence[Member], everybody: bool, done: Done, now_s: float) -> Plan:
    """What is to be done now, one thing at a time. `everybody`: all endpoints have answered."""
    if not members:
        return NOTHING
    revision = max(member.revision for member in members)
    if any(member.full for member in members):
        return _make_room(members, revision, done)
    fresh = revision - KEEP_REVISIONS - done.compacted
    if fresh >= CUT_EVERY_REVISIONS or (fresh >= CUT_AT_LEAST_REVISIONS and now_s - done.compacted_s >= CUT_EVERY_S):
        return Plan(compact=revision - KEEP_REVISIONS)
    wasteful = [member for member in members if _wastes(member)]
    if wasteful and everybody and now_s - done.packed_s >= PACK_EVERY_S:
        return Plan(pack=_first(wasteful))
    return NOTHING


def _make_room(members: Sequence[Member], revision: int, done: Done) -> Plan:
    """A full etcd: no history, then no waste, then no alarm. Nothing more where all of it is in use."""
    if done.compacted < revision - FULL_HISTORY_REVISIONS:
        return Plan(compact=revision)
    left = [member for member in members if member.at not in done.packed]
    if left:  # all of them: without writes, etcd does not count what the cut has set free
        return Plan(pack=_first(left))
    return Plan(disarm=max(member.size_bytes for member in members) < FULL_GAIN * done.full_bytes)


def _wastes(member: Member) -> bool:
    return member.size_bytes - member.used_bytes >= SLACK_BYTES and member.size_bytes >= 2 * member.used_bytes


def _first(members: Sequence[Member]) -> int:
    """Whose turn it is to be packed: etcd's leader comes last, since it holds up all the others."""
    return min(members, key=lambda member: (member.leads, member.at)).at


def vitals(statuses: Sequence[pb.StatusResponse | None], term: int) -> Vitals:
    """See ports.Engine; the members' answers in one."""
    there = [status for status in statuses if status]
    troubles = []
    if len(there) < len(statuses):
        troubles.append(f"{len(statuses) - len(there)} of {len(statuses)} etcd endpoints do not answer")
    troubles += sorted({f"etcd says: {error}" for status in there for error in status.errors})
    largest = max(there, key=lambda status: status.dbSize, default=pb.StatusResponse())
    versions = " and ".join(sorted({status.version for status in there}))
    return Vitals(f"etcd {versions}", term, largest.dbSize, largest.dbSizeInUse, tuple(troubles))


class Care:
    """Looks at the members again and again, and does what is due."""

    def __init__(self, client: EtcdClient, in_charge: Callable[[], Awaitable[bool]]) -> None:
        """`in_charge` says whether it is for this server to act: it leads, or nobody does."""
        self._client = client
        self._in_charge = in_charge
        self._done = Done()
        self._told_full = False

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                acted = await self.look()
            except StoreError as error:
                log.warning("etcd could not be looked after; trying again", error=error.text)
                acted = False
            except Exception:  # whatever it is, etcd must be looked after tomorrow too
                log.exception("etcd could not be looked after")
                acted = False
            await asyncio.sleep(0.0 if acted else LOOK_S)

    async def look(self) -> bool:
        """Do what is due; whether that was anything."""
        statuses = await self._client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        members = members_of(statuses)
        self._note_alarm(members)
        plan = due(members, all(statuses), self._done, time.monotonic())
        if plan == NOTHING:
            self._tell_full()
            return False
        if not await self._in_charge():
            return False
        if plan.compact:
            await self._compact(plan.compact)
        if plan.pack is not None:
            await self._pack(plan.pack)
        if plan.disarm:
            await self._disarm(max(member.size_bytes for member in members))
        return True

    def _note_alarm(self, members: Sequence[Member]) -> None:
        full = any(member.full for member in members)
        if not full:
            self._done, self._told_full = self._done._replace(full_bytes=0), False
        elif not self._done.full_bytes:
            log.warning("etcd is out of space")
            largest = max(member.size_bytes for member in members)
            self._done = self._done._replace(full_bytes=largest, packed=frozenset())

    def _tell_full(self) -> None:
        if self._done.full_bytes and not self._told_full:
            self._told_full = True
            log.error("etcd is full of what is in use: raise its --quota-backend-bytes, then etcdctl alarm disarm")

    async def _compact(self, revision: int) -> None:
        """Physical: the answer comes when the room is free, so that the next look counts it."""
        self._done = self._done._replace(compacted=revision, compacted_s=time.monotonic())
        request = pb.CompactionRequest(revision=revision, physical=bool(self._done.full_bytes))
        try:
            await self._client.steady("KV/Compact", request, pb.CompactionResponse, timeout_s=PACK_S)
        except HistoryCompacted:  # somebody has cut more than we would
            return
        log.debug("etcd's history was cut", up_to=revision)

    async def _pack(self, at: int) -> None:
        self._done = self._done._replace(packed_s=time.monotonic(), packed=self._done.packed | {at})
        self._client.leave(at)
        began_s = time.monotonic()
        await self._client.ask(at, "Maintenance/Defragment", pb.DefragmentRequest(), pb.DefragmentResponse, PACK_S)
        took_s = round(time.monotonic() - began_s, 3)
        log.info("an etcd member was defragmented", endpoint=self._client.endpoints[at], took_s=took_s)

    async def _disarm(self, size_bytes: int) -> None:
        """Where the alarm comes back, the file must have shrunk again before the next time."""
        self._done = self._done._replace(full_bytes=size_bytes, packed=frozenset())
        alarms = await self._client.call("Maintenance/Alarm", pb.AlarmRequest(), pb.AlarmResponse)
        for alarm in alarms.alarms:
            if alarm.alarm == pb.NOSPACE:
                off = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=pb.NOSPACE)
                await self._client.steady("Maintenance/Alarm", off, pb.AlarmResponse)
        log.warning("etcd has room again: its alarm is disarmed")


def members_of(statuses: Sequence[pb.StatusResponse | None]) -> list[Member]:
    """The members behind the endpoints, each once."""
    members: dict[int, Member] = {}
    for at, status in enumerate(statuses):
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
