"""The wishes of a request: its labels under `billet.io/`, read once, and what the soft ones add to a score.

docs/scheduling.md has the table of all of them. Labels reach no host, so they are free for this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from billet.core.errors import InvalidRequest
from billet.core.model import Auction, Constraints, Group, GroupKind, Host, Peers, Reason, Refusal, Score
from billet.core.policies import POLICIES
from billet.core.scoring import Weights

PREFIX = "billet.io/"
CLUSTER_LABEL = "cluster-name"  # CAPMVM puts it on every machine of a cluster
PLANE_LABEL = "cluster.x-k8s.io/control-plane"  # Cluster API's own mark, for those who put it on the microVM, too
PLANE_NAME = "-control-plane"  # and what its templates call control planes: CLUSTER-control-plane-abcde

REQUIRE, AVOID = "require.", "avoid."
NAMES = ("zone", "host", "spread", "apart", "near")
SPREAD, APART, NEAR = (PREFIX + preference for preference in ("spread", "apart", "near"))
ELSEWHERE = frozenset({"request-id"})  # a label of Billet that wishes nothing of a host
EVICT = ("allow", "deny")  # nor does this one; what allows nothing by a slip would be found out on the day of a drain
ALLOWED = (
    "billet.io/ has zone, host, require.LABEL, avoid.LABEL, spread, apart, near, policy, priority, request-id, evict"
)
NAME_MAX_CHARS = 253
PRIORITY_MAX = 1000
_PRIORITY = re.compile(r"-?[0-9]{1,4}")

ZONE_SHARE = 0.5  # what a microVM of the group in the same zone counts, beside one on the same host
PLANES = 10.0  # how much more control planes are spread among themselves than machines of a cluster are


def read(labels: Mapping[str, str], name: str = "", zone: str = "") -> Constraints:
    """The wishes of these labels, of a microVM of this name; `zone` is that of the address which it came through.

    Raises InvalidRequest for a label that is not known or has a wrong value: a wish with a typing error in it would
    be found out on the day when the zone burns.
    """
    found: dict[str, str] = {}
    require: list[tuple[str, str]] = []
    avoid: list[tuple[str, str]] = []
    for key, value in sorted(labels.items()):
        preference = key.removeprefix(PREFIX)
        if preference == key or preference in ELSEWHERE:
            continue
        if preference.startswith(REQUIRE) and preference != REQUIRE:
            require.append((preference.removeprefix(REQUIRE), value))
        elif preference.startswith(AVOID) and preference != AVOID:
            avoid.append((preference.removeprefix(AVOID), value))
        else:
            _check(key, preference, value)
            found[preference] = value
    wanted = found.get("zone", zone)
    if zone and wanted != zone:
        raise InvalidRequest(
            f"label {PREFIX}zone={wanted!r} contradicts the address, which stands for zone {zone!r}: "
            "drop the label, or use another address"
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


def _check(key: str, preference: str, value: str) -> None:
    """Raise InvalidRequest, with the label and what would be right."""
    if preference in NAMES:
        if not value or len(value) > NAME_MAX_CHARS or not value.isprintable():
            raise InvalidRequest(f"label {key}={value!r}: give a name of 1 to {NAME_MAX_CHARS} printable characters")
    elif preference == "evict":
        if value not in EVICT:
            raise InvalidRequest(f"label {key}={value!r}: write {' or '.join(EVICT)}")
    elif preference == "policy":
        if value not in POLICIES:
            raise InvalidRequest(f"label {key}={value!r}: there are the policies {', '.join(POLICIES)}")
    elif preference == "priority":
        if not _PRIORITY.fullmatch(value) or abs(int(value)) > PRIORITY_MAX:
            raise InvalidRequest(f"label {key}={value!r}: give a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}")
    else:
        raise InvalidRequest(f"label {key}={value!r} is none that Billet knows: {ALLOWED}")


def is_plane(cluster: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a cluster's machine is a control plane: it says so, or is called like one."""
    return bool(cluster) and (PLANE_LABEL in labels or name.startswith(cluster + PLANE_NAME))


# Hard wishes.


def violation(host: Host, constraints: Constraints) -> Refusal | None:
    """The first hard wish that a host cannot grant, by what it is; `Groups` knows about `apart`."""
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


# Groups, which are a namespace's own.


def groups_of(namespace: str, name: str, labels: Mapping[str, str]) -> Iterator[Group]:
    """The groups that a microVM belongs to, by its labels: every one that it names, whatever it wishes of it."""
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
    """The soft wishes of an auction that speak of groups: which wish, and of which group."""
    constraints, namespace = auction.constraints, auction.namespace
    if constraints.spread:
        yield "spread", Group(namespace, GroupKind.GROUP, constraints.spread)
    if constraints.near:
        yield "near", Group(namespace, GroupKind.GROUP, constraints.near)
    if constraints.cluster:
        yield "cluster", Group(namespace, GroupKind.CLUSTER, constraints.cluster)
        if constraints.plane:
            yield "planes", Group(namespace, GroupKind.PLANES, constraints.cluster)


def with_preferences(score: Score, peers: Sequence[Peers], weights: Weights) -> Score:
    """A score with what the soft wishes add to it.

    together = here / total + ZONE_SHARE x zone / total: the share of the group that would be lost with this host, and
    half of what would be lost with its zone; 0 where nobody of the group is, 1.5 where all are.

    wish = weights.wish x together for `spread`; weights.wish x (1.5 - together) for `near`; weights.cluster x
    together for a cluster's machines, and PLANES times that for its control planes among themselves. Nothing
    while nobody of the group is anywhere.

    Shares, not counts: of a group of three the second is kept off the first one's host however full the others are;
    of a group of three hundred one more or less on a host does not outweigh how full the host is.
    """
    part = 0.0
    for preference, here, zone, total in peers:
        together = (here + ZONE_SHARE * zone) / total
        match preference:
            case "spread":
                part += weights.preference * together
            case "near":
                part += weights.preference * (1.0 + ZONE_SHARE - together)
            case "cluster":
                part += weights.cluster * together
            case "planes":
                part += weights.cluster * PLANES * together
    return score._replace(total=score.total + part, preference=part)
