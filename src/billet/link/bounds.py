"""Bounds of what hosts say. Everything that arrives from an agent is checked here, once, before anybody uses it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from billet.core.errors import Code
from billet.core.model import Facts, Resources, VmState
from billet.core.report import Report
from billet.wire.pb import link_pb2 as pb

NAME_CHARS = 256
TEXT_CHARS = 1024
ERROR_CHARS = 4096
LABELS = 64
LABEL_KEY_CHARS = 317  # as Kubernetes: a prefix of 253, a slash, a name of 63
LABEL_VALUE_CHARS = 4096
TEXTS = 64  # lines of one report
IMAGES = 4096  # of one host; others count as missing
SHARE = 16.0  # a share is 0 to 1; measurements may overshoot
LARGEST_FACT = 1e12  # as seconds, about 30,000 years; its square is finite
LARGEST_CODE = 16  # of gRPC
STATES = {state.value for state in VmState}
# Whole machines, times the largest allocation ratio (100).
MOST = Resources(vcpu=6_553_600, memory_mib=1 << 46, disk_mib=1 << 46, vms=10_000_000)


def name(text: str, what: str) -> str:
    """A name: short and printable. Raises ValueError."""
    if len(text) > NAME_CHARS:
        raise ValueError(f"the {what} has {len(text)} characters; {NAME_CHARS} are allowed")
    if not text.isprintable():
        raise ValueError(f"the {what} {text!r} has characters that cannot be printed")
    return text


def clean(text: str, most: int = TEXT_CHARS) -> str:
    """A text for people, with what cannot be printed replaced and the rest cut off."""
    text = text[:most]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def error(text: str) -> str:
    """An error's text from a host: flintlockd's own may have several lines, and is longer than others."""
    text = text[:ERROR_CHARS]
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """A host's labels. Raises ValueError."""
    if len(given) > LABELS:
        raise ValueError(f"{len(given)} labels; {LABELS} are allowed")
    for key, value in given.items():
        if len(key) > LABEL_KEY_CHARS or len(value) > LABEL_VALUE_CHARS:
            raise ValueError("a label is too long")
        if not (key.isprintable() and value.isprintable()):
            raise ValueError(f"the label {key!r} has characters that cannot be printed")
    return dict(given)


def number(value: float, most: float, what: str) -> int:
    """A whole number from 0 to `most`. Raises ValueError."""
    if not 0 <= value <= most:
        raise ValueError(f"{what} is {value}; 0 to {most:g} is plausible")
    return int(value)


def amount(value: Resources, what: str) -> None:
    """Raise ValueError for resources that no machine has."""
    for kind, one, most in zip(Resources._fields, value, MOST, strict=True):
        if not 0 <= one <= most:
            raise ValueError(f"{what}: {kind} is {one}; 0 to {most} is plausible")


def are_valid(facts: Facts) -> bool:
    """Whether every fact is at least 0 and not too large. NaN is neither."""
    return all(fact is None or 0 <= fact <= LARGEST_FACT for fact in facts)


def check_report(report: Report) -> None:
    """Raise ValueError for a report with a number that cannot be right."""
    if not are_valid(report.facts):
        raise ValueError("a fact is negative, not finite or too large")
    shares = (report.cpu_share, *report.stalls)
    if not all(share is None or (isfinite(share) and 0 <= share <= SHARE) for share in shares):
        raise ValueError("a share is not between 0 and 1")
    amount(report.taken, "taken")
    sizes = (report.memory_used_mib, report.disk_free_mib, report.memory_free_mib, report.volumes_free_mib)
    counts = (report.vms, report.failed, report.images, report.interval_s)
    for value, most in (*((size, MOST.memory_mib) for size in sizes), *((count, MOST.vms) for count in counts)):
        if value is not None:
            number(value, most, "a count or a size")


def is_row(row: pb.MicroVM) -> bool:
    """Whether a microVM has a uid and a state that can be. Without them it is of no use."""
    return is_uid(row.uid) and row.state in STATES


def is_uid(uid: str) -> bool:
    """Whether a uid is short and printable."""
    return 0 < len(uid) <= NAME_CHARS and uid.isprintable()


def status(code: int) -> int:
    """A gRPC code as it was given; UNKNOWN for one that does not exist, because no client can be told it."""
    return code if 0 <= code <= LARGEST_CODE else Code.UNKNOWN


def clamped(demand: Resources) -> Resources:
    """The demand of a microVM, each amount moved into its bounds. One that is there is never left out."""
    if demand.vms == 1 and min(demand) >= 0 and MOST.covers(demand):
        return demand
    return Resources(*(min(max(one, 0), most) for one, most in zip(demand, MOST, strict=True)))._replace(vms=1)
