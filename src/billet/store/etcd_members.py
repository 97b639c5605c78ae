"""Follows changes of etcd's members, so that Billet still reaches etcd when all of them have new addresses.

The endpoints in --store stay in use. Members that none of them reaches are called at the client URLs that they
advertise. Such a URL may be wrong from here, and even lead to another etcd (etcd's default is
"http://localhost:2379"). It is used only after that member of that cluster has answered there, and never without TLS
where --store has TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from billet.core.errors import BilletError, StoreError
from billet.store.etcd_client import EtcdClient
from billet.wire.pb import etcd_rpc_pb2 as pb

log = structlog.get_logger()

LOOK_S = 5.0  # interval between looks at the members
MISSES = 3  # looks without an answer after which an endpoint is called dead


class Membership:
    """Tells the client which endpoints to use, and the operator which of the configured ones are dead."""

    def __init__(self, client: EtcdClient) -> None:
        self.count = 0  # members of the cluster; 0 = unknown
        self._client = client
        self._verified: dict[str, int] = {}  # member ids by advertised URL
        self._misses: dict[int, int] = {}  # looks without an answer, by index of the endpoint

    async def run(self) -> None:
        """Look regularly, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # the endpoints so far stay in use
                log.exception("etcd members not read")

    async def look(self) -> None:
        """Read the list of members, and use those that the configured endpoints do not reach."""
        try:
            listed = await self._client.call("Cluster/MemberList", pb.MemberListRequest(), pb.MemberListResponse)
        except StoreError:  # unreachable, or a user without the right to ask
            return
        statuses = await self._client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        self.count = len(listed.members)
        here = {status.header.member_id for at, status in statuses.items()
                if status and at < len(self._client.configured)}  # fmt: skip
        learned = [await self._url_of(member, listed.header.cluster_id)
                   for member in listed.members if member.ID not in here]  # fmt: skip
        before = set(self._client.active)
        self._client.use([url for url in learned if url])
        for at in sorted(set(self._client.active) - before):
            log.info("etcd member found", endpoint=self._client.endpoints[at])
        self._tell_dead(statuses)

    async def _url_of(self, member: pb.Member, cluster_id: int) -> str:
        """The first client URL of a member at which it has answered once; "" if there is none."""
        urls = usable(member.clientURLs, self._client.configured)
        for url in urls:
            if self._verified.get(url) == member.ID or await self._answers(url, member.ID, cluster_id):
                self._verified[url] = member.ID
                return url
        return ""

    async def _answers(self, url: str, member_id: int, cluster_id: int) -> bool:
        """Whether this member of this cluster answers at a URL."""
        client = None
        try:
            client = self._client.other(url)
            status = await client.call("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        except BilletError:
            return False
        finally:
            if client:
                await client.close()
        return (status.header.member_id, status.header.cluster_id) == (member_id, cluster_id)

    def _tell_dead(self, statuses: Mapping[int, pb.StatusResponse | None]) -> None:
        """Log a configured endpoint once when it is dead, and once when it answers again."""
        for at, status in statuses.items():
            missed = 0 if status else self._misses.get(at, 0) + 1
            if missed == MISSES and at < len(self._client.configured):
                log.warning("etcd endpoint in --store does not answer: start this member, or correct --store",
                            endpoint=self._client.endpoints[at])  # fmt: skip
            if status and self._misses.get(at, 0) >= MISSES:
                log.info("etcd endpoint answers again", endpoint=self._client.endpoints[at])
            self._misses[at] = missed


def usable(urls: Sequence[str], configured: Sequence[str]) -> list[str]:
    """Those of a member's client URLs that are as safe as the configured endpoints."""
    scheme = "https://" if any(url.startswith("https://") for url in configured) else "http://"
    return [url.rstrip("/") for url in urls if url.startswith(scheme)]
