"""Makes deploy/grafana/billet.json, Grafana's dashboard of Billet, from the table of panels below.

`python -m scripts.dashboard` writes the file; with --check it fails if the file is another.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).parents[1] / "deploy" / "grafana" / "billet.json"
WIDTH, HEIGHT = 8, 8  # of a panel; a row has 24 columns
RATE = "[$__rate_interval]"


class Panel(NamedTuple):
    """One panel: its title, the unit of its values, and its queries, each with the name of its lines."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def quantiles(metric: str, by: str = "", where: str = "") -> tuple[tuple[str, str], ...]:
    """The median and the 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{where}{RATE})))", f"{name}{word}")
        for share, word in ((0.5, "median"), (0.99, "p99"))
    )


ROWS: dict[str, tuple[Panel, ...]] = {
    "Who leads": (
        Panel("Leader", "short", (("billet_leader", "{{instance}}"),)),
        Panel("Term", "short", (("max(billet_term)", "term"),)),
        Panel("Servers that stand for election", "short", (("min(billet_servers_standing)", "standing"),)),
        Panel("Store members that answer", "short", (("min by (member) (billet_store_member_up)", "{{member}}"),)),
        Panel("Transactions of the store", "s", quantiles("billet_store_transaction_seconds")),
        Panel("Size of the store", "bytes", (("max by (member) (billet_store_size_bytes)", "{{member}}"),)),
    ),
    "Creates": (
        Panel("Creates by outcome", "ops", (
            (f"sum by (outcome) (rate(billet_creates_total{RATE}))", "{{outcome}}"),
        )),
        Panel("Time of a create", "s", quantiles("billet_create_leg_seconds", where='{leg="total"}')),
        Panel("Time of each leg", "s", quantiles("billet_create_leg_seconds", "leg", '{leg!="total"}')),
        Panel("Refusals by reason", "ops", ((f"sum by (reason) (rate(billet_refusals_total{RATE}))", "{{reason}}"),)),
        Panel("Bids in decisions", "ops", ((f"sum by (kind) (rate(billet_bids_total{RATE}))", "{{kind}}"),)),
        Panel("Creates that wait", "short", (
            ("sum by (at) (billet_creates_waiting)", "wait at {{at}}"),
            ("sum by (at) (billet_creates_in_work)", "in work at {{at}}"),
        )),
    ),
    "Hosts": (
        Panel("Hosts by state", "short", (("sum by (state) (billet_hosts)", "{{state}}"),)),
        Panel("Allocated share by resource", "percentunit", (
            ("sum by (resource) (billet_taken) / sum by (resource) (billet_allocatable)", "{{resource}}"),
        )),
        Panel("Allocated vCPU by zone", "percentunit", (
            ('sum by (zone) (billet_taken{resource="vcpu"}) / sum by (zone) (billet_allocatable{resource="vcpu"})',
             "zone {{zone}}"),
        )),
        Panel("Balance: utilisation of hosts", "percentunit", (
            ("max(billet_host_utilisation)", "fullest"),
            ("avg(billet_host_utilisation)", "mean"),
            ("min(billet_host_utilisation)", "emptiest"),
        )),
        Panel("Pressure, the ten worst", "percentunit", (("topk(10, billet_host_pressure)", "{{host}}"),)),
        Panel("Connections of agents", "short", (("billet_link_connections", "{{instance}}"),)),
    ),
    "microVMs and boots": (
        Panel("microVMs by state", "short", (("sum by (state) (billet_microvms)", "{{state}}"),)),
        Panel("Time to CREATED", "s", quantiles("billet_boot_seconds")),
        Panel("Actual over predicted time to CREATED", "short", quantiles("billet_boot_prediction_ratio")),
        Panel("Boot queues, the ten longest", "s", (("topk(10, billet_host_boot_queue_seconds)", "{{host}}"),)),
        Panel("FAILED microVMs by host", "short", (("topk(10, billet_host_boots_failed)", "{{host}}"),)),
        Panel("Changes by the reconciler", "ops", (
            (f"sum by (to) (rate(billet_reconciler_changes_total{RATE}))", "{{to}}"),
        )),
    ),
    "Processes": (
        Panel("CPU", "percentunit", ((f"rate(process_cpu_seconds_total{RATE})", "{{instance}}"),)),
        Panel("Memory", "bytes", (("process_resident_memory_bytes", "{{instance}}"),)),
        Panel("Days until the first certificate expires", "d", (
            ("(min by (instance) (billet_certificate_not_after_seconds) - time()) / 86400", "{{instance}}"),
        )),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana 9 and later read it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "id": len(panels) + 1, "gridPos": _at(0, y, 24, 1), "panels": []}
        )
        y += 1
        for n, panel in enumerate(row):
            x = n % (24 // WIDTH) * WIDTH
            panels.append(_panel(panel, len(panels) + 1, _at(x, y + n // (24 // WIDTH) * HEIGHT, WIDTH, HEIGHT)))
        y += -(-len(row) // (24 // WIDTH)) * HEIGHT
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "billet", "title": "Billet", "tags": ["billet"], "schemaVersion": 37, "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"}, "templating": {"list": [source]}, "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "type": "timeseries", "title": panel.title, "id": number, "gridPos": place, "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + n), "expr": query, "legendFormat": name, "datasource": source}
            for n, (query, name) in enumerate(panel.queries)
        ],
    }  # fmt: skip


def _at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def main() -> None:
    """Write the file, or check it."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text)
    elif PATH.read_text() != text:
        sys.exit(f"{PATH} is not what scripts/dashboard.py makes: run python -m scripts.dashboard")


if __name__ == "__main__":
    main()
