"""Constraints and preferences of a request: its labels under `billet.io/`, and what preferences add to a score.

docs/scheduling.md lists them all. Labels never reach a host, so they are free for this use.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from billet.core.errors import InvalidRequest
from billet.core.model import Auction, Constraints, Group, GroupKind, Host, Peers, Reason, Refusal, Score
from billet.core.policies import POLICIES
from billet.core.scoring import Weights

PREFIX = "billet.io/"
CLUSTER_LABEL = "cluster-name"  # CAPMVM puts it on every machine of a cluster
PLANE_LABEL = "cluster.x-k8s.io/control-plane"  # Cluster API's own label, if it is set on the microVM as well
PLANE_NAME = "-control-plane"  # in the names from its templates: CLUSTER-control-plane-abcde

REQUIRE, AVOID = "require.", "avoid."
NAMES = ("zone", "host", "spread", "apart", "near")
SPREAD, APART, NEAR = (PREFIX + name for name in ("spread", "apart", "near"))
ELSEWHERE = frozenset({"request-id"})  # a label of Billet that says nothing about hosts
EVICT = ("allow", "deny")  # says nothing about hosts either, but a typing error would surface only during a drain
ALLOWED = (
    "labels under billet.io/ are zone, host, require.LABEL, avoid.LABEL, spread, apart, near, policy, priority, "
    "request-id, evict"
)
NAME_MAX_CHARS = 253
PRIORITY_MAX = 1000
SHOWN = 8  # names in an error
_PRIORITY = re.compile(r"-?[0-9]{1,4}")

TO_SPREAD = frozenset({"spread", "planes"})  # the preferences that count before the score
ZONE_SHARE = 0.5  # weight of a group member in the same zone, relative to one on the same host


def read(labels: Mapping[str, str], name: str = "", zone: str = "") -> Constraints:
    """The constraints and preferences in a microVM's labels. `zone` is that of the address it was sent to, "" = none.

    Raises InvalidRequest for an unknown label or a wrong value: a typing error would otherwise go unnoticed until a
    zone fails.
    """
    found: dict[str, str] = {}
    require: list[tuple[str, str]] = []
    avoid: list[tuple[str, str]] = []
    for key, value in sorted(labels.items()):
        label = key.removeprefix(PREFIX)
        if label == key or label in ELSEWHERE:
            continue
        if label.startswith(REQUIRE) and label != REQUIRE:
            require.append((label.removeprefix(REQUIRE), value))
        elif label.startswith(AVOID) and label != AVOID:
            avoid.append((label.removeprefix(AVOID), value))
        else:
            _check(key, label, value)
            found[label] = value
    wanted = found.get("zone", zone)
    if zone and wanted != zone:
        raise InvalidRequest(
            f"label {PREFIX}zone={wanted!r} contradicts the address, which is the one of zone {zone!r}: "
            "remove the label, or use another address"
        )
    cluster = labels.get(CLUSTER_LABEL, "")
    return Constraints(
        zone=wanted,
        host=found.get("host", ""),
        require=tuple(require),
        avoid=tuple(avoid),
        spread=found.get("spread", ""),
        apart=found.get("apart", ""),
        near=found.get("near", ""),
        cluster=cluster,
        plane=is_plane(cluster, name, labels),
        policy=found.get("policy", ""),
        priority=int(found.get("priority", "0")),
    )


def _check(key: str, name: str, value: str) -> None:
    """Raise InvalidRequest for an unknown name or a wrong value, with the values that are right."""
    if name in NAMES:
        if not value or len(value) > NAME_MAX_CHARS or not value.isprintable():
            raise InvalidRequest(f"label {key}={value!r}: use a name of 1 to {NAME_MAX_CHARS} printable characters")
    elif name == "evict":
        if value not in EVICT:
            raise InvalidRequest(f"label {key}={value!r}: use {' or '.join(EVICT)}")
    elif name == "policy":
        if value not in POLICIES:
            raise InvalidRequest(f"label {key}={value!r}: the policies are {', '.join(POLICIES)}")
    elif name == "priority":
        if not _PRIORITY.fullmatch(value) or abs(int(value)) > PRIORITY_MAX:
            raise InvalidRequest(f"label {key}={value!r}: use a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}")
    else:
        raise InvalidRequest(f"label {key}={value!r} is unknown: {ALLOWED}")


def is_plane(cluster: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a cluster's machine is a control plane, by its label or its name."""
    return bool(cluster) and (PLANE_LABEL in labels or name.startswith(cluster + PLANE_NAME))


# Constraints.


def violation(host: Host, constraints: Constraints) -> Refusal | None:
    """The first constraint that a host violates, `apart` left out (see `Groups.apart`); None if it violates none."""
    if constraints.zone and host.zone != constraints.zone:
        place = f"is in zone {host.zone}" if host.zone else "is in no zone"
        return Refusal(host.id, Reason.ZONE, f"{place}, zone {constraints.zone} is required")
    if constraints.host and host.id != constraints.host:
        return Refusal(host.id, Reason.HOST, f"host {constraints.host} is required")
    for label, value in constraints.require:
        if host.labels.get(label) != value:
            has = f"is {host.labels[label]}" if label in host.labels else "is missing"
            return Refusal(host.id, Reason.LABEL, f"label {label} {has}, {value or 'an empty value'} is required")
    for label, value in constraints.avoid:
        if host.labels.get(label) == value:
            return Refusal(host.id, Reason.AVOIDED, f"label {label} is {value}, which the request avoids")
    return None


def unmet(hosts: Collection[Host], constraints: Constraints) -> list[str]:
    """The constraints that no host of the fleet meets, full or empty: a zone, a host or a label that does not exist.

    Each with what there is instead. O(hosts); empty for a fleet without hosts.
    """
    found: list[str] = []
    if not hosts:
        return found
    if constraints.zone and not any(host.zone == constraints.zone for host in hosts):
        found.append(f"zone {constraints.zone} does not exist; zones: {_some(host.zone for host in hosts)}")
    if constraints.host and not any(host.id == constraints.host for host in hosts):
        found.append(f"host {constraints.host} does not exist; hosts: {_some(host.id for host in hosts)}")
    for label, value in constraints.require:
        values = [host.labels[label] for host in hosts if label in host.labels]
        if not values:
            labels = _some(name for host in hosts for name in host.labels)
            found.append(f"no host has a label {label}; labels: {labels}")
        elif value not in values:
            found.append(f"no host has label {label}={value}; its values: {_some(values)}")
    return found


def _some(names: Iterable[str]) -> str:
    """The first of these names in the order of the alphabet."""
    known = sorted(set(names) - {""})
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return (", ".join(known[:SHOWN]) + more) or "none"


# Preferences: groups of microVMs in one namespace.


def groups_of(namespace: str, name: str, labels: Mapping[str, str]) -> Iterator[Group]:
    """The groups that a microVM belongs to: all that its labels name, as a constraint or as a preference."""
    if not labels:
        return
    for group in {labels[key]: None for key in (SPREAD, APART, NEAR) if labels.get(key)}:
        yield Group(namespace, GroupKind.GROUP, group)
    if apart := labels.get(APART):
        yield Group(namespace, GroupKind.APART, apart)
    if cluster := labels.get(CLUSTER_LABEL):
        yield Group(namespace, GroupKind.CLUSTER, cluster)
        if is_plane(cluster, name, labels):
            yield Group(namespace, GroupKind.PLANES, cluster)


def soft_groups(auction: Auction) -> Iterator[tuple[str, Group]]:
    """The preferences of an auction that are about groups, as pairs (preference, group)."""
    constraints, namespace = auction.constraints, auction.namespace
    if constraints.spread:
        yield "spread", Group(namespace, GroupKind.GROUP, constraints.spread)
    if constraints.near:
        yield "near", Group(namespace, GroupKind.GROUP, constraints.near)
    if constraints.cluster:
        yield "cluster", Group(namespace, GroupKind.CLUSTER, constraints.cluster)
        if constraints.plane:
            yield "planes", Group(namespace, GroupKind.PLANES, constraints.cluster)


class Crowding(NamedTuple):
    """How many members of a microVM's groups are in a host's zone and on the host. Compared before any score; the
    lower wins."""

    zone: int = 0
    host: int = 0


def crowding(peers: Sequence[Peers], weights: Weights) -> Crowding:
    """How crowded a host is with the groups that are to be spread: `spread`, and a cluster's control planes.

    The rule: such a microVM goes to the zone with the fewest members of its group that has room, there to the host
    with the fewest, and among those to the lowest score. So a failure domain takes its part of a group however full
    it is, as users of topology spread constraints and of failure domains expect. The counts change with every claim,
    so the least crowded hosts take part in each decision, whoever was asked before (core/shortlist.py). A weight of
    0 switches its preference off.
    """
    zone = host = 0
    for preference, here, in_zone, _ in peers:
        if (preference == "spread" and weights.preference) or (preference == "planes" and weights.cluster):
            zone += in_zone
            host += here
    return Crowding(zone, host)


def with_preferences(score: Score, peers: Sequence[Peers], weights: Weights) -> Score:
    """A score plus what the preferences `near` and `cluster` add to it; the others count before it (`crowding`).

    together = here / total + ZONE_SHARE x zone / total: the share of the group that would be lost with this host,
    plus half the share that would be lost with its zone; 0 with no member there, 1.5 with all of them.

    preference = weights.preference x (1.5 - together) for `near`; weights.cluster x together for a cluster's
    machines. Nothing while the group has no members.

    These are shares, not counts: in a cluster of three machines, the second is kept off the first one's host; in one
    of three hundred, one more or less on a host does not outweigh how full the host is.
    """
    part = 0.0
    for preference, here, zone, total in peers:
        together = (here + ZONE_SHARE * zone) / total
        if preference == "near":
            part += weights.preference * (1.0 + ZONE_SHARE - together)
        elif preference == "cluster":
            part += weights.cluster * together
    return score._replace(total=score.total + part, preference=part)
