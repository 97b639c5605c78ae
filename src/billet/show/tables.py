"""Tables of the fleet: hosts, and microVMs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from billet.core.expiry import DAY_S, urgency
from billet.core.plural import counted
from billet.show.marks import age, bar, duration, gib, state, table

Row = Mapping[str, Any]


def hosts_table(hosts: Iterable[Row]) -> Table:
    """The hosts of a HostsReply (as dicts), by name. Column ZONE appears only if a host has a zone."""
    rows = sorted(hosts, key=lambda row: natural(row["id"]))
    zones = any(row["zone"] for row in rows)
    columns = ["~HOST", "ZONE", "STATE", "HOW FULL", ">vCPU", ">GiB", ">VMs", ">BOOT\nQUEUE", ">PRES-\nSURE"]
    result = table(*[column for column in columns if zones or column != "ZONE"])
    for row in rows:
        allocatable, taken = row["allocatable"], row["taken"]
        result.add_row(
            Text(row["id"], style="bold"),
            *([Text(row["zone"] or "-")] if zones else []),
            _host_state(row),
            bar(row["utilisation"], 12),
            f"{taken['vcpu']}/{allocatable['vcpu']}",
            f"{gib(taken['memory_mib'])}/{gib(allocatable['memory_mib'])}",
            _count(taken["vms"], row["failed"]),
            _queue(row["pending"], row["boot_s"]),
            f"{row['pressure']:.0%}" if "pressure" in row else "-",
        )
    return result


def troubles(hosts: Iterable[Row]) -> list[str]:
    """Lines that say what has failed on which host."""
    rows = sorted(hosts, key=lambda row: natural(row["id"]))
    return [f"{row['id']}: {row['trouble']}" for row in rows if row.get("trouble")]


def expiring(hosts: Iterable[Row], certificates: Iterable[Row], now_s: float) -> list[str]:
    """Lines about certificates that expire within a month: the leader's, then those of the hosts' agents."""
    ends = [(f"server {row['server']}: {row['file']}", row["ends_s"]) for row in certificates]
    for row in sorted(hosts, key=lambda row: natural(row["id"])):
        if row.get("certificate_ends_s"):
            ends.append((f"{row['id']}: the agent's certificate", row["certificate_ends_s"]))
    return [f"{name} {expiry(ends_s - now_s)}" for name, ends_s in ends if urgency(ends_s - now_s)]


def expiry(left_s: float) -> str:
    """When a certificate expires, or that it has."""
    days = int(abs(left_s) / DAY_S)
    when = counted(days, "day") if days else "less than a day"
    return f"expires in {when}" if left_s > 0 else f"expired {when} ago"


def agents_table(agents: Iterable[Row]) -> Table:
    """The agents of a HostsReply (as dicts): those that were not let in, and why."""
    result = table("~HOST", "STATE", "~FROM", "~KEY", ">HEARD", "~WHY")
    for row in agents:
        result.add_row(
            Text(row["host"], style="bold"),
            state(row["state"]),
            Text(row["address"]),
            row["key"] or UNKNOWN,
            f"{age(row['age_s'])} ago" if row["age_s"] else "connected",
            Text(row["why"]),
        )
    return result


def unavailable_metrics(hosts: Iterable[Row]) -> list[str]:
    """Lines that list the unavailable metrics; hosts with the same ones are grouped."""
    by_metric: dict[str, list[str]] = {}
    for row in sorted(hosts, key=lambda row: natural(row["id"])):
        for metric in row["unavailable"]:
            by_metric.setdefault(metric, []).append(row["id"])
    by_hosts: dict[tuple[str, ...], list[str]] = {}
    for metric, names in by_metric.items():
        by_hosts.setdefault(tuple(names), []).append(metric)
    lines = []
    for names_with, metrics in by_hosts.items():
        lines += [f"Unavailable on {_some(list(names_with))}:", *(f"  {metric}" for metric in metrics)]
    return lines


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def host_table(row: Row) -> Table:
    """All details of one host, and its unavailable metrics."""
    result = table("", "~")
    result.show_header = False
    allocated = {kind: f"{row['taken'][kind]} of {row['allocatable'][kind]}" for kind in ("vcpu", "vms")}
    memory, disk = (
        f"{gib(row['taken'][kind])} of {gib(row['allocatable'][kind])} GiB" for kind in ("memory_mib", "disk_mib")
    )
    queue = f"{_queue(row['pending'], row['boot_s'])}" + (
        f", {duration(row['ahead_s'])} in total" if "ahead_s" in row else ""
    )
    pull = duration(row["pull_s"]) if "pull_s" in row else "no pull seen yet"
    for name, value in (
        ("state", _host_state(row)),
        *([("  recent failures", _trouble(row))] if row.get("trouble") else []),
        *([("  dead VMMs", _dead(row))] if row.get("dead_vmms") else []),
        ("zone", Text(row["zone"] or UNKNOWN)),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(row["labels"].items())) or UNKNOWN),
        ("key, machine", f"{row['key'] or 'not bound'}, {row['machine'] or UNKNOWN}"),
        ("allocated", bar(row["utilisation"], 12)),
        ("  vCPU, microVMs", f"{allocated['vcpu']}, {allocated['vms']}"),
        ("  memory, disk", f"{memory}, {disk}"),
        ("pressure", _share(row, "pressure")),
        ("  CPU, memory, IO stalls", ", ".join(_share(row, f"{kind}_stall") for kind in ("cpu", "memory", "io"))),
        ("available memory", _gib(row, "memory_free_mib")),
        ("free volume space", _gib(row, "volumes_free_mib")),
        ("boot queue", queue),
        ("mean image pull", pull),
        ("unpacked images", str(row["images"]) if "images" in row else UNKNOWN),
        ("CPU", row.get("cpu_model", UNKNOWN)),
        ("/dev/kvm", {True: "yes", False: "no"}.get(row.get("kvm", ""), UNKNOWN)),
        ("providers", ", ".join(row["providers"]) or UNKNOWN),
    ):
        result.add_row(name, Text(value) if isinstance(value, str) else value)
    for metric in row["unavailable"]:
        result.add_row(Text("unavailable", style="yellow"), Text(metric))
    return result


UNKNOWN = "-"


def _dead(row: Row) -> Text:
    what = counted(row["dead_vmms"], "microVM")
    return Text(f"{what} CREATED, though nothing runs: `billet vms --host {row['id']}`", style="red")


def _trouble(row: Row) -> Text:
    added = row["trouble_score"]
    return Text(row["trouble"] + (f"; {added:g} is added to its score" if added else ""), style="yellow")


def _share(row: Row, key: str) -> str:
    return f"{row[key]:.0%}" if key in row else UNKNOWN


def _gib(row: Row, key: str) -> str:
    return f"{gib(row[key])} GiB" if key in row else UNKNOWN


def _host_state(row: Row) -> Text:
    """The host's state; ", cordoned" is added if it is also AWAY, DAEMON_DOWN or FENCED."""
    text = state(row["state"])
    if row["duplicate"]:
        text.append(", identity copied", style="red")
    return text.append(", cordoned", style="yellow") if row["cordoned"] and row["state"] != "CORDONED" else text


def _count(vms: int, failed: int) -> Text:
    text = Text(str(vms))
    return text.append(f" ({failed} FAILED)", style="red") if failed else text


def _queue(pending: int, boot_s: float) -> str:
    return f"{pending} x {duration(boot_s)}" if boot_s else str(pending)


PLACEMENT_COLUMNS = ("UID", "~NAME", "~HOST", "STATE", ">vCPU", ">GiB", ">SCORE", ">AGE")
LEFT_OUT = (">SCORE", "UID", ">GiB", ">vCPU")  # in this order, before a name is broken on a narrow terminal
VERY_WIDE = 100_000


def placements_table(placements: Iterable[Row], now_s: float, width: int = VERY_WIDE) -> Table:
    """Placements (as dicts) in this order, with the columns for which there is room. `now_s` is the wall clock."""
    rows = [_placement_cells(row, now_s) for row in placements]
    widths = {
        title: max(len(title.lstrip("~>")), *(len(row[n]) for row in rows)) if rows else 0
        for n, title in enumerate(PLACEMENT_COLUMNS)
    }
    shown = list(PLACEMENT_COLUMNS)
    for title in LEFT_OUT:
        if sum(widths[one] + GAP for one in shown) <= width:
            break
        shown.remove(title)
    kept = [title in shown for title in PLACEMENT_COLUMNS]
    result = table(*shown)
    for row in rows:
        result.add_row(*compress(row, kept))
    return result


GAP = 2  # columns of the screen between two columns of a table; as many are at its edges


def _placement_cells(row: Row, now_s: float) -> list[str | Text]:
    return [
        row["uid"] or "-",
        f"{row['namespace']}/{row['name']}",
        Text(row["host"], style="bold"),
        vm_state(row),
        str(row["vcpu"]),
        gib(row["memory_mib"]),
        "direct" if row["adopted"] else f"{row['score']:.3f}",
        age(now_s - row["changed_at_s"]),
    ]


def state_of(row: Row) -> str:
    """flintlockd's state if the placement is STARTED and one is known, else the placement's."""
    found: str = row["vm_state"] if row["state"] == "STARTED" and row["vm_state"] else row["state"]
    return found


ORDERS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: 0,
    "host": lambda row: natural(row["host"]),
    "age": lambda row: -row["changed_at_s"],  # the youngest first
    "score": lambda row: row["score"],
    "vcpu": lambda row: -row["vcpu"],
    "memory": lambda row: -row["memory_mib"],
    "state": state_of,
}


def in_order(placements: Iterable[Row], order: str = "name") -> list[Row]:
    """Placements (as dicts) in one of ORDERS, equal ones by name."""
    by_name = sorted(placements, key=lambda row: (row["namespace"], natural(row["name"]), row["uid"]))
    return sorted(by_name, key=ORDERS[order])


FRAME = 6  # lines of the screen that are no rows: the table's header, and two lines below


def watched(placements: Sequence[Row], now_s: float, width: int, height: int) -> Group:
    """The placements that a screen of this size has room for, and how many more there are."""
    shown = placements[: max(1, height - FRAME)]
    more = len(placements) - len(shown)
    text = f"and {more} more; " if more else ""
    text += f"{counted(len(placements), 'microVM')}; Ctrl-C ends"
    return Group(placements_table(shown, now_s, width), Text(text, style="dim"))


def vm_state(row: Row) -> Text:
    """flintlockd's state if the placement is STARTED and one is known, else the placement's state."""
    text = state(state_of(row))
    return text.append(", VMM dead", style="red") if row.get("vmm_dead") else text


def remaining_table(rows: Iterable[tuple[Row, str]]) -> Table:
    """The microVMs left on a host that is being drained, each with the reason."""
    result = table("UID", "~NAME", "STATE", "~REASON")
    for row, reason in rows:
        result.add_row(row["uid"] or "-", f"{row['namespace']}/{row['name']}", vm_state(row), reason)
    return result


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts host-2 before host-10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def credentials_table(credentials: Iterable[Row], now_s: float) -> Table:
    """The credentials of a CredentialsReply (as dicts). `now_s` is the wall clock."""
    result = table("~NAME", "ROLE", "~NAMESPACES", "EXEC", "~PROVEN BY", ">AGE", ">EXPIRES IN", "~CREATED BY")
    for row in credentials:
        left = Text("never")
        if row["expires_at_s"]:
            left = Text("expired", style="red") if row["expired"] else Text(age(row["expires_at_s"] - now_s))
        result.add_row(
            Text(row["name"], style="bold"),
            row["role"].lower(),
            Text(", ".join(row["namespaces"])),
            "yes" if row["exec"] else "-",
            Text(row["certificate"] or "token"),
            age(now_s - row["created_at_s"]),
            left,
            Text(row["created_by"] or UNKNOWN),
        )
    return result
