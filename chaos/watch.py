"""Observe the fleet: its leader, whether it is at rest, and its final state."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from contextlib import suppress

import grpc.aio

from billet.api import fleet_service as fleet
from billet.core.errors import BilletError, StoreError
from billet.store.etcd import EtcdStore
from billet.store.etcd_client import EtcdClient
from billet.wire.pb import etcd_rpc_pb2 as etcd
from billet.wire.pb import fleet_pb2
from chaos.cluster import ADDRESSES, ETCD, HOSTS, SERVERS, Cluster
from chaos.faults import Heads
from chaos.history import Look, Op, Promise, Room, Vm, World
from chaos.load import SAMPLE_S, Clients, shown

REST_S = 90.0  # how long a fleet may take to come to rest once all is healed
LOOK_S = 0.2  # between two looks
NEAR = 100  # revisions that a member may be behind under load and still count as caught up


class Watch:
    """Asks etcd, the servers and the hosts, none of which counts as a client's call."""

    def __init__(self, cluster: Cluster, clients: Clients) -> None:
        self._cluster = cluster
        self._clients = clients
        urls = [f"http://{ADDRESSES[member]}:2379" for member in ETCD]
        self._store = EtcdStore(urls)
        self._members = EtcdClient(urls)
        self._last = Heads(SERVERS[0], ETCD[0])
        self.waited_for = ""  # what was the last to come to rest

    async def close(self) -> None:
        """Let go of all connections."""
        await self._store.close()
        await self._members.close()

    async def leader(self) -> str:
        """The server that etcd names, "" when it names none or does not answer."""
        try:
            leader = await self._store.leader()
        except StoreError:
            return ""
        return leader.id if leader else ""

    async def heads(self) -> Heads:
        """Who leads; where nobody can say, who did when it was last known."""
        server, member = await asyncio.gather(self.leader(), self._member())
        self._last = Heads(server or self._last.server, member or self._last.member)
        return self._last

    async def until_led(self, not_by: str = "", timeout_s: float = 30.0) -> str:
        """The leader, as soon as there is one (other than `not_by`)."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            leader = await self.leader()
            if leader and leader != not_by:
                return leader
            await asyncio.sleep(0.02)
        raise BilletError(f"no server was elected within {timeout_s:g} s")

    async def until_etcd_is_whole(self, timeout_s: float = 30.0) -> None:
        """Wait until all members follow one leader and none is far behind, as one is that has just come back."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            answers = [status for status in await self._statuses() if status]
            leaders, revisions = {one.leader for one in answers}, [one.header.revision for one in answers]
            if len(answers) == len(ETCD) and len(leaders) == 1 and max(revisions) - min(revisions) < NEAR:
                return
            await asyncio.sleep(LOOK_S)
        raise BilletError(f"etcd was not whole within {timeout_s:g} s")

    async def _member(self) -> str:
        for name, status in zip(ETCD, await self._statuses(), strict=True):
            if status and status.leader == status.header.member_id:
                return name
        return ""

    async def _statuses(self) -> list[etcd.StatusResponse | None]:
        statuses = await self._members.everyone("Maintenance/Status", etcd.StatusRequest(), etcd.StatusResponse)
        return list(statuses.values())

    async def keep_looking(self) -> None:
        """Write all placements into the history, twice a second for ever, while a server answers."""
        while True:
            at_s = time.monotonic()
            with suppress(grpc.aio.AioRpcError):
                self._clients.history.looks.append(Look(at_s, await self._promises(random.choice(SERVERS))))
            await asyncio.sleep(SAMPLE_S)

    # The end of a run.

    async def rest(self, timeout_s: float = REST_S) -> str:
        """Wait until the fleet is whole and nothing moves; "", or what was still wrong when the time was up."""
        deadline_s = time.monotonic() + timeout_s
        self.waited_for = ""
        while True:
            unrest = await self._unrest()
            if not unrest or time.monotonic() > deadline_s:
                return unrest
            self.waited_for = unrest
            await asyncio.sleep(LOOK_S)

    async def _unrest(self) -> str:
        down = [part.name for part in self._cluster.parts.values() if not part.running]
        if down:
            return f"{', '.join(down)} not running"
        try:
            for server in SERVERS:
                hosts = await self._hosts(server)
                # What was broken is SUSPECT until a create tries it, which may be after the last client's end.
                well = (fleet_pb2.READY, fleet_pb2.SUSPECT)
                away = [f"{h.id} is {fleet_pb2.HostState.Name(h.state)}" for h in hosts if h.state not in well]
                if away or len(hosts) != len(HOSTS):
                    return f"{server} says: {', '.join(away) or f'{len(hosts)} hosts'}"
            return await self._unresolved()
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except OSError as error:
            return str(error)

    async def _unresolved(self) -> str:
        promises = await self._promises()
        moving = [promise for promise in promises if promise.state not in ("STARTED", "LOST")]
        if moving:
            return f"{len(moving)} placements move, one is {moving[0]}"
        for host in HOSTS:
            here = {vm.uid for vm in await shown(host)}
            promised = {p.uid for p in promises if p.host == host and p.state == "STARTED"}
            if here != promised:
                return f"{host} and the ledger differ by {', '.join(sorted(here ^ promised))}"
        return ""

    async def world(self, uids: Iterable[str], unrest: str) -> World:
        """What is there now. `uids` are those to be asked for one by one."""
        hosts: dict[str, list[Vm]] = {}
        for host in HOSTS:
            hosts[host] = await shown(host)
        rooms = {
            host.id: Room(
                (host.allocatable.vcpu, host.allocatable.memory_mib), (host.taken.vcpu, host.taken.memory_mib)
            )
            for host in await self._hosts(SERVERS[0])
        }
        promises = await self._promises()
        listing = await self._clients.list(SERVERS[0])
        got: dict[str, Op] = {}
        for n, uid in enumerate(uids):
            got[uid] = await self._clients.get(SERVERS[n % len(SERVERS)], uid)
        fallen = [part.name for part in self._cluster.fallen()]
        return World(hosts, promises, rooms, listing.listed, got, fallen, self._cluster.unnoticed, unrest)

    async def _hosts(self, server: str) -> list[fleet_pb2.HostView]:
        reply = await self._clients.ask(server, fleet.HOSTS, fleet_pb2.HostsRequest())
        return list(fleet_pb2.HostsReply.FromString(reply).hosts)

    async def _promises(self, server: str = SERVERS[0]) -> list[Promise]:
        reply = await self._clients.ask(server, fleet.PLACEMENTS, fleet_pb2.PlacementsRequest())
        placements = fleet_pb2.PlacementsReply.FromString(reply).placements
        return [Promise(p.uid, p.name, p.host, p.state) for p in placements]
