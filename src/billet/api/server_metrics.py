"""Prometheus metrics that are read on a scrape: this server and its store, and on the leader the fleet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from billet.api.fleet_summary import host_state, microvms_by_state
from billet.core.model import ZERO, Host, Resources
from billet.core.scoring import utilisation
from billet.leader.leadership import Leadership
from billet.store_watch import StoreWatch
from billet.wire.pb import fleet_pb2 as pb

UNITS = {"vcpu": 1, "memory_mib": 1 << 20, "disk_mib": 1 << 20, "vms": 1}
RESOURCES = {"vcpu": "vcpu", "memory_mib": "memory_bytes", "disk_mib": "disk_bytes", "vms": "microvms"}


def gauge(name: str, text: str, samples: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """A family of gauges with a sample for each tuple of label values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


class ServerMetrics(Collector):
    """Every server: whether it leads, what it sees of the store and of the other servers."""

    def __init__(self, watch: StoreWatch, leads: bool, serving: bool, version: str, connections: int) -> None:
        """`serving`: whether calls are answered. `connections`: of agents to this server."""
        self._watch, self._version = watch, version
        self._own = {
            "billet_leader": ("Whether this server leads", leads),
            "billet_serving": ("Whether this server answers calls: it leads, or reaches the leader", serving),
            "billet_link_connections": ("Connections of agents to this server", connections),
        }

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        watch, health = self._watch, self._watch.health
        yield gauge("billet_build_info", "The version of Billet", {(self._version,): 1}, "version")
        for name, (text, value) in self._own.items():
            yield gauge(name, text, {(): float(value)})
        standing = sum(not missing_s for _, missing_s in watch.servers)
        yield gauge("billet_servers_standing", "Servers that stand for election", {(): standing})
        yield gauge(
            "billet_servers_seen", "Servers that stood for election within the last hour", {(): len(watch.servers)}
        )
        yield gauge("billet_store_serving", "Whether the store answers linearizable reads", {(): not health.why})
        yield gauge("billet_store_look_age_seconds", "Time since the last look at the store", {(): watch.age_s})
        yield gauge("billet_store_troubles", "Troubles that the store reports", {(): len(health.troubles)})
        up = {(member.name,): float(member.answers) for member in health.members}
        size = {(member.name,): float(member.size_bytes) for member in health.members if member.answers}
        used = {(member.name,): float(member.used_bytes) for member in health.members if member.answers}
        yield gauge("billet_store_member_up", "Whether a member of the store answers", up, "member")
        yield gauge("billet_store_size_bytes", "Size of a member's file", size, "member")
        yield gauge("billet_store_used_bytes", "Bytes of a member's file that are in use", used, "member")


class FleetMetrics(Collector):
    """The leader: hosts, microVMs and room. Runs in a thread; it copies each dict before it goes through it."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        leadership = self._leadership
        state, hosts = leadership.ledger.state, list(leadership.ledger.state.hosts.values())
        yield gauge("billet_term", "The number of this term", {(): leadership.ledger.term.number})
        yield from self._hosts(hosts)
        microvms = {(name,): float(count) for name, count in microvms_by_state(leadership).items()}
        yield gauge("billet_microvms", "microVMs by state", microvms, "state")
        room = {host.id: (host.zone, host.allocatable, state.taken.get(host.id, ZERO)) for host in hosts}
        allocatable = _by_zone((zone, most) for zone, most, _ in room.values())
        taken = _by_zone((zone, amount) for zone, _, amount in room.values())
        yield gauge("billet_allocatable", "What hosts offer to microVMs", allocatable, "resource", "zone")
        yield gauge("billet_taken", "What is taken of it", taken, "resource", "zone")
        full = {(host_id,): utilisation(most, amount, ZERO) for host_id, (_, most, amount) in room.items()}
        yield gauge("billet_host_utilisation", "Allocated share of a host's scarcest resource", full, "host")
        yield from self._reports(hosts)

    def _hosts(self, hosts: list[Host]) -> Iterator[Metric]:
        leadership = self._leadership
        by_state = dict.fromkeys(((name,) for name in pb.HostState.keys()[1:]), 0.0)
        odd = {}
        for host in hosts:
            name = pb.HostState.Name(host_state(leadership, host))
            by_state[name,] += 1.0
            if name != "READY":
                odd[host.id, host.zone, name] = 1.0
        yield gauge("billet_hosts", "Hosts by state", by_state, "state")
        yield gauge("billet_host_not_ready", "Hosts that are not READY", odd, "host", "zone", "state")
        waiting = len(leadership.admission.not_joined())
        yield gauge("billet_agents_not_joined", "Agents that were not let in", {(): waiting})
        ends = {(host.id,): ends_s for host in hosts if (ends_s := leadership.hosts.certificate_ends_s(host.id))}
        yield gauge(
            "billet_agent_certificate_not_after_seconds",
            "When an agent's certificate expires, since 1970",
            ends,
            "host",
        )

    def _reports(self, hosts: list[Host]) -> Iterator[Metric]:
        """What hosts report of their boots."""
        values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for host in hosts:
            seen = self._leadership.reconciler.seen.get(host.id)
            report = seen.report if seen else None
            if report is None:
                continue
            facts = report.facts
            values["queue"][host.id,] = facts.pending
            values["failed"][host.id,] = report.failed
            for name, value in (
                ("ahead", facts.ahead_s),
                ("boot", facts.boot_s or None),
                ("pressure", facts.pressure),
            ):
                if value is not None:
                    values[name][host.id,] = value
        for key, name, text in (
            ("queue", "billet_host_boot_queue", "microVMs that wait for their boot"),
            ("ahead", "billet_host_boot_queue_seconds", "Time until all of them are CREATED"),
            ("boot", "billet_host_boot_seconds", "Mean time of a boot"),
            ("failed", "billet_host_boots_failed", "microVMs in state FAILED"),
            ("pressure", "billet_host_pressure", "Share of time in which tasks waited"),
        ):
            yield gauge(name, text, values[key], "host")


def _by_zone(amounts: Iterator[tuple[str, Resources]]) -> Mapping[Any, float]:
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for zone, amount in amounts:
        for kind, value in amount._asdict().items():
            sums[RESOURCES[kind], zone] += value * UNITS[kind]
    return sums


def server_collectors(
    watch: StoreWatch, leadership: Leadership | None, serving: bool, version: str, connections: Callable[[], int]
) -> list[Collector]:
    """The collectors of one scrape."""
    own = ServerMetrics(watch, leadership is not None, serving, version, connections())
    return [own, *([FleetMetrics(leadership)] if leadership else [])]
