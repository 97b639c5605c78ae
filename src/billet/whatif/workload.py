"""Workloads: hosts, and a stream of creates and deletes. Reads JSON and CSV (formats: docs/scheduling.md)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from billet.core import constraints
from billet.core.errors import ConfigError, InvalidRequest
from billet.core.model import NO_CONSTRAINTS, Auction, Resources

MOST_VMS = 1000  # default of `vms`, as of the agent's --max-vms


class Create(NamedTuple):
    """Create a microVM. A refused one is not tried again. `wanted`: its constraints and preferences."""

    vm: str
    demand: Resources
    wanted: Auction | None = None  # None: neither constraints nor preferences


class Delete(NamedTuple):
    """Delete a microVM. Does nothing if it was refused."""

    vm: str


class Existing(NamedTuple):
    """A microVM on a fixed host, such as one that ran before the records begin. Not in files."""

    vm: str
    demand: Resources
    host: str


class Mark(NamedTuple):
    """Measure the balance here."""

    name: str


Event = Create | Delete | Existing | Mark


class Traits(NamedTuple):
    """Zone and labels of a host, for constraints and preferences."""

    zone: str = ""
    labels: Mapping[str, str] = {}


@dataclass(slots=True)
class Workload:
    """Hosts with their allocatable resources, and events in order."""

    name: str
    hosts: dict[str, Resources] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    traits: dict[str, Traits] = field(default_factory=dict)

    @property
    def constraints(self) -> bool:
        """Whether any microVM has constraints or preferences."""
        return any(isinstance(event, Create) and event.wanted for event in self.events)

    def marks(self) -> list[str]:
        """The names of the marks, in order."""
        return [event.name for event in self.events if isinstance(event, Mark)]


def read(path: Path) -> Workload:
    """Read a workload from a file: `.csv` as CSV, others as JSON. Raises ConfigError with the place of the error."""
    try:
        text = path.read_text("utf-8-sig")  # spreadsheets begin a CSV with a byte order mark
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    workload = Workload(path.stem)
    rows = _Rows(workload)
    for where, row in _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text):
        try:
            rows.add(row)
        except ValueError as error:
            raise ConfigError(f"{path}, {where}: {error}") from None
    if not workload.hosts:
        raise ConfigError(f"{path} has no hosts: a workload must begin with its hosts")
    if not any(isinstance(event, Mark) for event in workload.events):
        workload.events.append(Mark("end"))
    return workload


CSV_COLUMNS = ("op", "name", "vcpu", "memory_mib", "disk_mib", "vms", "zone", "labels")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row as a mapping from column to cell. Trailing columns may be missing; # begins a comment.

    A first row with "op" in it names the columns; the default is CSV_COLUMNS. The delimiter is that of the first row:
    comma, semicolon (as spreadsheets write where the comma is the decimal point) or tab.
    """
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    reader = csv.reader(lines, delimiter=max(",;\t", key=first.count))
    columns: Sequence[str] = ()
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0].startswith("#"):
                continue
            where = f"line {reader.line_num}"
            if not columns and "op" in cells:
                columns = _named_columns(f"{path}, {where}", cells)
                continue
            columns = columns or CSV_COLUMNS
            if any(cells[len(columns) :]):
                raise ConfigError(f"{path}, {where}: {len(cells)} columns; the maximum is {len(columns)}")
            row: dict[str, Any] = {key: cell for key, cell in zip(columns, cells, strict=False) if cell}
            if "labels" in row:  # KEY=VALUE, with spaces between several
                row["labels"] = dict(pair.partition("=")[::2] for pair in row["labels"].split())
            yield where, {"op": ""} | row
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from None


def _named_columns(where: str, heads: Sequence[str]) -> Sequence[str]:
    for head in heads:
        if (head and head not in CSV_COLUMNS) or heads.count(head) > 1:
            raise ConfigError(
                f"{where}: column {head!r} is {'repeated' if head in CSV_COLUMNS else 'unknown'};"
                f" the columns are {', '.join(CSV_COLUMNS)}"
            )
    return heads


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of `{"hosts": [...], "events": [...]}`, with the column names of CSV."""
    try:
        tree = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not a workload: it is nested too deeply") from None
    if not isinstance(tree, dict):
        raise ConfigError(f'{path} is not a workload: write {{"hosts": [...], "events": [...]}}')
    for part, op in (("hosts", "host"), ("events", None)):
        rows = tree.get(part, [])
        if not isinstance(rows, list):
            raise ConfigError(f"{path}: {part!r} is not a list")
        for n, row in enumerate(rows):
            where = f"{part}[{n}]"
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, {where} is not an object")
            name = row.get("id", row.get("vm", row.get("name", "")))
            memory_mib = row.get("memory_mib", row.get("mem_mib"))
            yield where, {**row, "op": op or row.get("op", ""), "name": name, "memory_mib": memory_mib}


class _Rows:
    """Adds rows to a workload, and validates them."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._created: set[str] = set()
        self._marks: set[str] = set()
        self._take: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
            "host": self._host, "create": self._create, "delete": self._delete, "mark": self._mark,
        }  # fmt: skip

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row. Raises ValueError with the reason."""
        take = self._take.get(str(row["op"]))
        if take is None:
            raise ValueError(f"{row['op']!r} is not one of {', '.join(self._take)}")
        name = row.get("name")
        if not name:
            raise ValueError(f"this {row['op']} has no name")
        take(str(name), row)

    def _host(self, name: str, row: Mapping[str, Any]) -> None:
        if name in self._workload.hosts:
            raise ValueError(f"host {name} is repeated")
        if self._workload.events:
            raise ValueError(f"host {name} comes after the first event; list all hosts first")
        self._workload.hosts[name] = _amount(row, vms=_whole(row, "vms", MOST_VMS))
        traits = Traits(str(row.get("zone") or ""), _labels(row))
        if traits != Traits():
            self._workload.traits[name] = traits

    def _create(self, name: str, row: Mapping[str, Any]) -> None:
        if name in self._created:
            raise ValueError(f"microVM {name} is created twice; use unique names")
        self._created.add(name)
        demand = _amount(row, vms=1)
        if row.get("zone"):
            raise ValueError(f"microVM {name} has a zone; use the label billet.io/zone")
        self._workload.events.append(Create(name, demand, _wanted(name, demand, _labels(row))))

    def _delete(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._created:
            raise ValueError(f"microVM {name} is deleted before it is created")
        self._workload.events.append(Delete(name))

    def _mark(self, name: str, row: Mapping[str, Any]) -> None:
        if name in self._marks:
            raise ValueError(f"mark {name} is repeated")
        self._marks.add(name)
        self._workload.events.append(Mark(name))


def _labels(row: Mapping[str, Any]) -> Mapping[str, str]:
    labels = row.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ValueError(f"labels are {labels!r}; write names with strings as values")
    return labels


def _wanted(name: str, demand: Resources, labels: Mapping[str, str]) -> Auction | None:
    """The auction of a microVM with constraints or preferences in its labels; None without."""
    if not labels:
        return None
    try:
        with_preferences = constraints.read(labels, name)
    except InvalidRequest as error:
        raise ValueError(error.text) from None
    return (
        Auction(name, "", name, demand, labels=labels, constraints=with_preferences)
        if with_preferences != NO_CONSTRAINTS
        else None
    )


def _amount(row: Mapping[str, Any], vms: int) -> Resources:
    amount = Resources(_whole(row, "vcpu"), _whole(row, "memory_mib"), _whole(row, "disk_mib", 0), vms)
    if amount.vcpu < 1 or amount.memory_mib < 1:
        raise ValueError("vcpu and memory_mib must be at least 1")
    return amount


def _whole(row: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = row.get(key)
    if value is None and default is not None:
        return default
    try:
        number = int("" if isinstance(value, bool) or not isinstance(value, (int, str)) else value)
    except ValueError:
        raise ValueError(f"{key} is {'missing' if value is None else repr(value)}; write a whole number") from None
    if number < 0:
        raise ValueError(f"{key} is {number}; it must not be negative")
    return number
