"""Quotas: how much of the whole fleet a namespace may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from billet.core.model import Resources

OTHERS = "*"  # the quota of each namespace without its own
UNITS = {"vcpu": "vCPU", "memory_mib": "MiB memory", "disk_mib": "MiB disk", "vms": "microVMs"}


class Quota(NamedTuple):
    """The limits of a namespace, by resource; None is no limit."""

    vcpu: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    vms: int | None = None


Quotas = Mapping[str, Quota]  # by namespace


def read_quota(text: str) -> Quota:
    """Parse a quota like `vcpu:64,memory_mib:131072,vms:20`. Raises ValueError."""
    limits: dict[str, int] = {}
    for part in text.split(","):
        name, colon, amount = part.strip().partition(":")
        if name not in UNITS or name in limits or not colon or not (amount.isascii() and amount.isdigit()):
            raise ValueError(text)
        limits[name] = int(amount)
    return Quota(**limits)


OVER = "is over its quota"  # part of the text below; records recognise this refusal by it


def exceeded(quotas: Quotas, namespace: str, taken: Resources, demand: Resources) -> str:
    """The error text when `taken` and `demand` together exceed the quota, with limit, used and requested; else ""."""
    quota = quotas.get(namespace) or quotas.get(OTHERS)
    if quota is None:
        return ""
    over = [
        f"{limit} {unit}, has {used} and wants {wanted} more"
        for limit, unit, used, wanted in zip(quota, UNITS.values(), taken, demand, strict=True)
        if limit is not None and used + wanted > limit
    ]
    return f"namespace {namespace} {OVER}: it may have {'; '.join(over)}" if over else ""


def left(quotas: Quotas, namespace: str, taken: Resources, demand: Resources) -> int | None:
    """How many more microVMs of this demand a namespace may have; None = any number."""
    quota = quotas.get(namespace) or quotas.get(OTHERS) or Quota()
    limits = [
        max(0, limit - used) // wanted
        for limit, used, wanted in zip(quota, taken, demand, strict=True)
        if limit is not None and wanted > 0
    ]
    return min(limits, default=None)
