"""Billet's own gRPC service, billet.v1.Fleet: hosts, placements, auction records, accuracy, host operations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from billet.api.capacity import capacity_reply
from billet.api.event_feed import EventFeed
from billet.api.fleet_summary import fleet_summary, host_state, put_resources, shown_row, vm_state
from billet.api.recorded import Growth, RecordedAuctions
from billet.core.corrections import NO_DISCOUNT
from billet.core.errors import InvalidRequest
from billet.core.identity import Waiting, fingerprint
from billet.core.model import ZERO, Host, HostView, Placement, PlacementState
from billet.core.report import Report
from billet.core.scoring import utilisation
from billet.core.vmm import Vmm
from billet.leader.admission import NotJoined
from billet.leader.leadership import Leadership
from billet.leader.operator import Operator
from billet.ports import Answer
from billet.reloading import validities
from billet.wire.auction_records import encode_outcome, readable
from billet.wire.flintlock import parse
from billet.wire.pb import fleet_pb2 as pb

SERVICE = "billet.v1.Fleet"
HOSTS = f"/{SERVICE}/Hosts"
STATUS = f"/{SERVICE}/Status"
PLACEMENTS = f"/{SERVICE}/Placements"
EXPLAIN = f"/{SERVICE}/Explain"
RECORDS = f"/{SERVICE}/Records"
ACCURACY = f"/{SERVICE}/Accuracy"
CAPACITY = f"/{SERVICE}/Capacity"
EVENTS = f"/{SERVICE}/Events"
CHANGE_HOST = f"/{SERVICE}/ChangeHost"
CREATE_CREDENTIAL = f"/{SERVICE}/CreateCredential"  # these three: credential_service.py
CREDENTIALS = f"/{SERVICE}/Credentials"
REVOKE_CREDENTIAL = f"/{SERVICE}/RevokeCredential"

PAGE = 200  # records of 36 bids each stay below the 4 MB that gRPC accepts by default
MAX_PAGE = 500

Method = Callable[[bytes, float, Mapping[str, str]], Awaitable[Answer]]


def fleet_methods(
    leadership: Leadership, records: RecordedAuctions, server: str, growth: Growth | None = None
) -> dict[str, Method]:
    """The service's methods by full name. `server` is the id of this server; `growth` tells of new `records`."""
    fleet = _Fleet(leadership, records, server)
    return {
        HOSTS: fleet.hosts,
        STATUS: fleet.status,
        PLACEMENTS: fleet.placements,
        EXPLAIN: fleet.explain,
        RECORDS: fleet.records,
        ACCURACY: fleet.accuracy,
        CAPACITY: fleet.capacity,
        EVENTS: EventFeed(records, growth or Growth(), server).events,
        CHANGE_HOST: fleet.change_host,
    }


class _Fleet:
    """The service. Large replies are encoded in a thread, because on the event loop they would block all auctions."""

    def __init__(self, leadership: Leadership, records: RecordedAuctions, server: str) -> None:
        self._leadership = leadership
        self._records = records
        self._server = server

    async def hosts(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        leadership = self._leadership
        views = [host_view(leadership, host) for _, host in sorted(leadership.ledger.state.hosts.items())]
        weights = leadership.rules.weights._asdict()
        policy = weights.pop("policy")
        agents = [agent_view(agent) for agent in leadership.admission.not_joined()]
        certificates = [
            pb.CertificateView(server=self._server, file=path, ends_s=valid.ends_s)
            for path, valid in sorted(validities().items())
        ]
        reply = pb.HostsReply(hosts=views, policy=policy, weights=weights, agents=agents, certificates=certificates)
        return Answer(reply.SerializeToString())

    async def status(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """The leader's part; the server that a client calls adds its own (status.py)."""
        summary = await asyncio.to_thread(fleet_summary, self._leadership, self._server)
        return Answer(pb.StatusReply(leader=self._server, fleet=summary).SerializeToString())

    async def capacity(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        return Answer(capacity_reply(self._leadership, request, metadata).SerializeToString())

    async def placements(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        wanted = parse(pb.PlacementsRequest, request)
        found = [p for p in self._leadership.ledger.state.placements.values() if _matches(p, wanted)]
        found.sort(key=lambda p: (p.namespace, p.name, p.uid))
        views = [placement_view(self._leadership, placement) for placement in found]
        return Answer(pb.PlacementsReply(placements=views).SerializeToString())

    async def explain(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        key = parse(pb.ExplainRequest, request).key

        def encoded() -> bytes:
            found = [readable(data, self._records.about) for data in self._records.find(key)]
            return pb.ExplainReply(record_json=found).SerializeToString()

        return Answer(await asyncio.to_thread(encoded))  # thousands, if a controller keeps retrying a name

    async def records(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        wanted = parse(pb.RecordsRequest, request)
        limit = min(max(wanted.limit, 0) or PAGE, MAX_PAGE)
        if wanted.key:
            found, more = await asyncio.to_thread(self._records.find, wanted.key), 0
        else:
            found, more = await asyncio.to_thread(self._records.page, wanted.after, limit, wanted.gone)
        return Answer(pb.RecordsReply(record=found, next=more, server=self._server).SerializeToString())

    async def accuracy(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        wanted = parse(pb.AccuracyRequest, request).host
        outcomes = sorted(self._leadership.accuracy.outcomes.items())
        kept = [outcome for host_id, of_host in outcomes if wanted in ("", host_id) for outcome in of_host]

        def encoded() -> bytes:
            return pb.AccuracyReply(outcome_json=map(encode_outcome, kept), server=self._server).SerializeToString()

        return Answer(await asyncio.to_thread(encoded))  # half a million outcomes with a thousand hosts

    async def change_host(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        leadership, wanted = self._leadership, parse(pb.ChangeHostRequest, request)
        # Shielded: a client that disconnects must not stop it between the commit and the ledger.
        released = await asyncio.shield(_change(leadership, wanted))
        host = leadership.ledger.state.hosts.get(wanted.host)
        view = host_view(leadership, host) if host else None
        return Answer(pb.ChangeHostReply(host=view, released=released).SerializeToString())


async def _change(leadership: Leadership, wanted: pb.ChangeHostRequest) -> int:
    """Carry out the operation. Returns the number of microVMs that a fence has released. Raises BilletError."""
    operator = Operator(leadership.ledger, leadership.reconciler, leadership.admission.sharing)
    match wanted.verb:
        case pb.CORDON | pb.UNCORDON:
            await operator.cordon(wanted.host, wanted.verb == pb.CORDON)
        case pb.FENCE:
            return await operator.fence(wanted.host)
        case pb.REMOVE:
            await operator.remove(wanted.host, wanted.gone, wanted.to)
        case pb.REBIND:
            await leadership.admission.rebind(wanted.host)
        case pb.ADMIT:
            await leadership.admission.admit(wanted.host)
        case pb.ACCEPT_TERM:
            leadership.admission.accept_term(wanted.host)
        case _:
            raise InvalidRequest("the request names no verb; set one of HostVerb, for example CORDON")
    return 0


def host_view(leadership: Leadership, host: Host) -> pb.HostView:
    """One host: its allocation in the ledger and the metrics of its last report."""
    taken = leadership.ledger.state.taken.get(host.id, ZERO)
    seen = leadership.reconciler.seen.get(host.id)
    trouble = leadership.health.trouble(host.id)
    view = pb.HostView(
        id=host.id,
        zone=host.zone,
        state=host_state(leadership, host),
        allocatable=put_resources(host.allocatable),
        taken=put_resources(taken),
        utilisation=min(utilisation(host.allocatable, taken, ZERO), 1e9),
        labels=dict(host.labels),
        report_age_s=-1.0,
        cordoned=host.cordoned,
        connected=seen is not None,
        key=fingerprint(host.key),
        machine=host.machine,
        duplicate=host.duplicate,
        trouble=trouble.why,
        dead_vmms=sum(row.vmm is Vmm.DEAD for row in seen.rows.values()) if seen else 0,
        trouble_score=trouble.penalty,
        certificate_ends_s=leadership.hosts.certificate_ends_s(host.id),
    )
    discount = leadership.accuracy.discounted({host.id: HostView(host.allocatable, taken)})[host.id].discount
    if discount != NO_DISCOUNT:
        view.delay_correction, view.utilisation_correction = discount
    if seen and seen.report:
        report = seen.report
        view.MergeFrom(_facts(report))
        view.cpu_share, view.memory_used_mib, view.failed = report.cpu_share, report.memory_used_mib, report.failed
        view.report_age_s = leadership.reconciler.age_s(seen)
    return view


def agent_view(agent: NotJoined) -> pb.AgentView:
    """One agent that was not let in."""
    claim, verdict = agent.claim, agent.verdict
    state = pb.REFUSED
    if isinstance(verdict, Waiting):
        state = pb.LATER_TERM if verdict.later_term else pb.PENDING
    return pb.AgentView(
        host=claim.host.id,
        state=state,
        address=claim.address,
        age_s=agent.age_s,
        why=verdict.why,
        key=fingerprint(claim.host.key),
    )


def _facts(report: Report) -> pb.HostView:
    """The report's metrics; unavailable ones stay unset."""
    facts, machine = report.facts, report.machine
    return pb.HostView(
        pressure=facts.pressure,
        pending=facts.pending,
        boot_s=facts.boot_s,
        ahead_s=facts.ahead_s,
        pull_s=facts.pull_s,
        uncertainty=facts.uncertainty,
        pulls=facts.pulls,
        boots_seen=facts.boots_seen,
        pulls_seen=facts.pulls_seen,
        cpu_stall=report.stalls.cpu,
        memory_stall=report.stalls.memory,
        io_stall=report.stalls.io,
        memory_free_mib=report.memory_free_mib,
        volumes_free_mib=report.volumes_free_mib,
        images=report.images,
        cpu_model=machine.cpu_model,
        kvm=machine.kvm,
        providers=machine.providers or (),
        unavailable=machine.lacks,
    )


def placement_view(leadership: Leadership, placement: Placement) -> pb.PlacementView:
    """One placement, with flintlockd's state as last reported."""
    row = shown_row(leadership, placement)
    return pb.PlacementView(
        uid=placement.uid,
        namespace=placement.namespace,
        name=placement.name,
        host=placement.host,
        state=placement.state.value,
        vm_state=vm_state(leadership, placement),
        vcpu=placement.demand.vcpu,
        memory_mib=placement.demand.memory_mib,
        disk_mib=placement.demand.disk_mib,
        score=placement.score,
        runner_up=placement.runner_up,
        adopted=placement.adopted,
        changed_at_s=placement.changed_at_s,
        labels=placement.labels,
        vmm_dead=row is not None and row.vmm is Vmm.DEAD,
    )


def _matches(placement: Placement, wanted: pb.PlacementsRequest) -> bool:
    return (
        wanted.namespace in ("", placement.namespace)
        and wanted.name in ("", placement.name)
        and wanted.host in ("", placement.host)
        and wanted.uid in ("", placement.uid)
        and (wanted.fenced or placement.state is not PlacementState.FENCED)
        and placement.state is not PlacementState.GONE
    )
