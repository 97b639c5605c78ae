"""The fleet as tables: hosts with how full they are, microVMs with where they run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from billet.show.marks import age, bar, duration, gib, state, table

Row = Mapping[str, Any]


def hosts_table(hosts: Iterable[Row]) -> Table:
    """The hosts of a HostsReply (as dicts), by name. Zones are shown where there are any."""
    rows = sorted(hosts, key=lambda row: natural(row["id"]))
    zones = any(row["zone"] for row in rows)
    columns = ["~HOST", "ZONE", "STATE", "HOW FULL", ">vCPU", ">GiB", ">VMs", ">BOOT\nQUEUE", ">PRES-\nSURE"]
    made = table(*[column for column in columns if zones or column != "ZONE"])
    for row in rows:
        allocatable, taken = row["allocatable"], row["taken"]
        made.add_row(
            Text(row["id"], style="bold"),
            *([row["zone"] or "-"] if zones else []),
            _host_state(row),
            bar(row["utilisation"], 12),
            f"{taken['vcpu']}/{allocatable['vcpu']}",
            f"{gib(taken['memory_mib'])}/{gib(allocatable['memory_mib'])}",
            _count(taken["vms"], row["failed"]),
            _queue(row["pending"], row["boot_s"]),
            f"{row['pressure']:.0%}" if "pressure" in row else "-",
        )
    return made


def lacking(hosts: Iterable[Row]) -> list[str]:
    """Which facts which hosts cannot give, in lines: the same ones of several hosts together."""
    of: dict[str, list[str]] = {}
    for row in sorted(hosts, key=lambda row: natural(row["id"])):
        for lack in row["lacks"]:
            of.setdefault(lack, []).append(row["id"])
    by_hosts: dict[tuple[str, ...], list[str]] = {}
    for lack, names in of.items():
        by_hosts.setdefault(tuple(names), []).append(lack)
    lines = []
    for hosts_of, lacks in by_hosts.items():
        lines += [f"{_some(list(hosts_of))} cannot tell:", *(f"  {lack}" for lack in lacks)]
    return lines


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def host_table(row: Row) -> Table:
    """Everything that is known of one host, and what is not."""
    made = table("", "~")
    made.show_header = False
    free = {kind: f"{row['taken'][kind]} of {row['allocatable'][kind]}" for kind in ("vcpu", "vms")}
    memory, disk = (
        f"{gib(row['taken'][kind])} of {gib(row['allocatable'][kind])} GiB" for kind in ("memory_mib", "disk_mib")
    )
    queue = f"{_queue(row['pending'], row['boot_s'])}" + (
        f", {duration(row['ahead_s'])} in all" if "ahead_s" in row else ""
    )
    pull = duration(row["pull_s"]) if "pull_s" in row else "no pull seen yet"
    for name, shown in (
        ("state", _host_state(row)),
        ("zone", row["zone"] or UNKNOWN),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(row["labels"].items())) or UNKNOWN),
        ("full", bar(row["utilisation"], 12)),
        ("  vCPU, microVMs", f"{free['vcpu']}, {free['vms']}"),
        ("  memory, disk", f"{memory}, {disk}"),
        ("pressure", _share(row, "pressure")),
        ("  CPU, memory, IO stalls", ", ".join(_share(row, f"{kind}_stall") for kind in ("cpu", "memory", "io"))),
        ("memory truly free", _gib(row, "memory_free_mib")),
        ("room for volumes", _gib(row, "volumes_free_mib")),
        ("boot queue", queue),
        ("pull of an image", pull),
        ("images unpacked", str(row["images"]) if "images" in row else UNKNOWN),
        ("CPU", row.get("cpu_model", UNKNOWN)),
        ("/dev/kvm", {True: "yes", False: "no"}.get(row.get("kvm", ""), UNKNOWN)),
        ("providers", ", ".join(row["providers"]) or UNKNOWN),
    ):
        made.add_row(name, shown)
    for lack in row["lacks"]:
        made.add_row(Text("cannot tell", style="yellow"), lack)
    return made


UNKNOWN = "-"


def _share(row: Row, key: str) -> str:
    return f"{row[key]:.0%}" if key in row else UNKNOWN


def _gib(row: Row, key: str) -> str:
    return f"{gib(row[key])} GiB" if key in row else UNKNOWN


def _host_state(row: Row) -> Text:
    """A host that is cordoned may be away, too, or fenced: both are worth knowing."""
    text = state(row["state"])
    return text.append(", cordoned", style="yellow") if row["cordoned"] and row["state"] != "CORDONED" else text


def _count(vms: int, failed: int) -> Text:
    text = Text(str(vms))
    return text.append(f" ({failed} FAILED)", style="red") if failed else text


def _queue(pending: int, boot_s: float) -> str:
    return f"{pending} x {duration(boot_s)}" if boot_s else str(pending)


def placements_table(placements: Iterable[Row], now_s: float) -> Table:
    """The placements of a PlacementsReply (as dicts), by name. `now_s` is the wall clock."""
    made = table("UID", "~NAME", "~HOST", "STATE", ">vCPU", ">GiB", ">SCORE", ">AGE")
    rows = sorted(placements, key=lambda row: (row["namespace"], natural(row["name"]), row["uid"]))
    for row in rows:
        made.add_row(
            row["uid"] or "-",
            f"{row['namespace']}/{row['name']}",
            Text(row["host"], style="bold"),
            _vm_state(row),
            str(row["vcpu"]),
            gib(row["memory_mib"]),
            "direct" if row["adopted"] else f"{row['score']:.3f}",
            age(now_s - row["changed_at_s"]),
        )
    return made


def _vm_state(row: Row) -> Text:
    """flintlockd's own state where there is one, else the placement's."""
    return state(row["vm_state"] if row["state"] == "STARTED" and row["vm_state"] else row["state"])


def left_table(rows: Iterable[tuple[Row, str]]) -> Table:
    """Placements of one host that is being drained, each with what is to be said of it."""
    made = table("UID", "~NAME", "STATE", "~WHAT BECOMES OF IT")
    for row, why in rows:
        made.add_row(row["uid"] or "-", f"{row['namespace']}/{row['name']}", _vm_state(row), why)
    return made


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts host-2 before host-10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
