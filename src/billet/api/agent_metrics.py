"""The agent's HTTP port, off by default: /metrics for Prometheus, /healthz, /readyz, /version."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from billet.host.agent import Agent
from billet.reloading import validities
from billet.wire.auth import NO_TOKEN, read_token
from billet.wire.secret import Secret

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def agent_app(agent: Agent, token: str, version: str) -> Starlette:
    """The application. `token` "": everybody may read everything."""
    secret = Secret(token)

    def for_prometheus(page: Callable[[], Response]) -> Callable[[Request], Response]:
        def shown(http: Request) -> Response:
            given = read_token(http.headers.get("authorization"))
            if secret.lines and not (given and secret.accepts(given.token)):
                return PlainTextResponse(f"{NO_TOKEN}\n", status_code=401)
            return page()

        return shown

    async def health(http: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(http: Request) -> Response:
        why = unready(agent)
        return PlainTextResponse(f"{why}\n", status_code=503) if why else PlainTextResponse("ok\n")

    async def metrics(http: Request) -> Response:  # on the event loop: the agent's state is small
        return for_prometheus(lambda: Response(agent_exposition(agent, version), media_type=EXPOSITION))(http)

    async def which_version(http: Request) -> Response:
        return for_prometheus(lambda: JSONResponse({"version": version}))(http)

    return Starlette(
        routes=[
            Route("/healthz", health), Route("/readyz", ready), Route("/metrics", metrics),
            Route("/version", which_version),
        ]
    )  # fmt: skip


def unready(agent: Agent) -> str:
    """Why this host gets no microVMs now; "" = it may."""
    if not agent.known:
        return "flintlockd does not answer"
    return "" if agent.uplink else "no server that leads is connected"


def agent_exposition(agent: Agent, version: str) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(AgentMetrics(agent, version))
    return generate_latest(registry)


class AgentMetrics(Collector):
    """What this agent knows of its host."""

    def __init__(self, agent: Agent, version: str) -> None:
        self._agent = agent
        self._version = version

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        """See Collector."""
        agent, report = self._agent, self._agent.report()
        facts = report.facts
        info = GaugeMetricFamily("billet_build_info", "The version of Billet", labels=["version"])
        info.add_metric([self._version], 1)
        orders = CounterMetricFamily("billet_agent_orders", "Creates that the leader ordered", labels=["outcome"])
        for outcome, count in sorted(agent.ordered.items()):
            orders.add_metric([outcome], count)
        ends = GaugeMetricFamily(
            "billet_certificate_not_after_seconds", "When a certificate expires, since 1970", labels=["file"]
        )
        for path, valid in sorted(validities().items()):
            ends.add_metric([path], valid.ends_s)
        single = {
            "billet_agent_leader_connected": ("Whether a server that leads is connected", agent.uplink is not None),
            "billet_agent_term": ("The greatest term whose orders were obeyed", agent.term),
            "billet_agent_flintlockd_up": ("Whether flintlockd answers", report.daemon_ok),
            "billet_agent_microvms": ("microVMs on this host", report.vms),
            "billet_agent_boots_failed": ("microVMs in state FAILED", report.failed),
            "billet_agent_boot_queue": ("microVMs that wait for their boot", facts.pending),
            "billet_agent_boot_queue_seconds": ("Time until all of them are CREATED", facts.ahead_s),
            "billet_agent_boot_seconds": ("Mean time of a boot", facts.boot_s or None),
            "billet_agent_pull_seconds": ("Mean time of an image pull", facts.pull_s),
            "billet_agent_pressure": ("Share of time in which tasks waited", facts.pressure),
            "billet_agent_cpu_share": ("CPU usage of the machine, 0 to 1", report.cpu_share),
            "billet_agent_unavailable_facts": ("Facts that this host cannot provide", len(report.machine.lacks)),
        }
        gauges = [
            GaugeMetricFamily(name, text, value=float(value))
            for name, (text, value) in single.items()
            if value is not None
        ]
        return [info, orders, ends, *gauges]
