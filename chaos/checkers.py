"""The promises as pure checkers: history and final state in, violations as text out.

Nothing here knows how a fleet works. A create that failed may have made one microVM or none; one that was
acknowledged has made exactly one, which stays until a client asks for its end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from math import inf

from chaos.broken import FULL
from chaos.history import History, Kind, Op, Sample, World

# What a client may be told when a call could not be done. Anything else is an error that nobody foresaw.
CODES = {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
HOLDING = ("STARTED", "RELEASING")

Checker = Callable[[History, World], Iterator[str]]


def nothing_acknowledged_is_lost(history: History, world: World) -> Iterator[str]:
    """A microVM whose create was acknowledged is on one host, is listed and answers Get, unless a Delete was sent."""
    places = _places(world)
    deleted = {op.uid for op in history.of(Kind.DELETE)}
    for op in history.of(Kind.CREATE):
        if not op.ok or op.uid in deleted:
            continue
        if op.uid not in places:
            yield f"{_told(op)} was acknowledged but is on no host"
        if op.uid not in world.listed:
            yield f"{_told(op)} was acknowledged but is not listed"
        got = world.got.get(op.uid)
        if got and not got.ok:
            yield f"{_told(op)} was acknowledged, but Get returns {got.code}: {got.text}"


def nothing_is_made_twice(history: History, world: World) -> Iterator[str]:
    """One create never has two microVMs, at any moment, and its microVM is the one that was acknowledged."""
    acknowledged = {op.name: op.uid for op in history.of(Kind.CREATE) if op.ok}
    uids = defaultdict(set)
    hosts = defaultdict(set)
    for host, vms in [*world.hosts.items(), *((sample.host, sample.vms) for sample in history.samples)]:
        for vm in vms:
            uids[vm.name].add(vm.uid)
            hosts[vm.uid].add(host)
    for name, found in uids.items():
        if len(found) > 1:
            yield f"{name} was created {len(found)} times: {', '.join(sorted(found))}"
        if name in acknowledged and found != {acknowledged[name]}:
            yield f"{name} was acknowledged as {acknowledged[name]}, but the hosts have {', '.join(sorted(found))}"
    for uid, on in hosts.items():
        if len(on) > 1:
            yield f"microVM {uid} was seen on {len(on)} hosts: {', '.join(sorted(on))}"


def no_host_is_overcommitted(history: History, world: World) -> Iterator[str]:
    """No host ever shows more microVMs than it has room for."""
    final = [Sample(0.0, host, vms) for host, vms in world.hosts.items()]
    for sample in [*history.samples, *final]:
        room = world.rooms.get(sample.host)
        shown = (sum(vm.vcpu for vm in sample.vms), sum(vm.memory_mib for vm in sample.vms))
        if room and (shown[0] > room.allocatable[0] or shown[1] > room.allocatable[1]):
            yield f"{sample.host} has room for {room.allocatable} (vCPU, MiB) and was seen with {shown}"


def ledger_and_hosts_agree(history: History, world: World) -> Iterator[str]:
    """At rest placements and taken resources equal what the hosts show, and nothing is RESERVED."""
    promised = {promise.uid: promise.host for promise in world.promises if promise.state in HOLDING}
    places = _places(world)
    for uid in sorted(promised.keys() - places.keys()):
        yield f"microVM {uid} has a placement on {promised[uid]} but is on no host"
    for uid in sorted(places.keys() - promised.keys()):
        yield f"microVM {uid} is on {places[uid]} without a placement"
    for uid in sorted(places.keys() & promised.keys()):
        if places[uid] != promised[uid]:
            yield f"microVM {uid} is on {places[uid]} but placed on {promised[uid]}"
    for promise in world.promises:
        if promise.state == "RESERVED":
            yield f"{promise.name} is still RESERVED on {promise.host}"
    for host, vms in world.hosts.items():
        shown = (sum(vm.vcpu for vm in vms), sum(vm.memory_mib for vm in vms))
        room = world.rooms.get(host)
        counted = room.taken if room else "nothing"
        if counted != shown:
            yield f"{host} shows {shown} (vCPU, MiB) in use, and the ledger counts {counted}"


def not_found_means_gone(history: History, world: World) -> Iterator[str]:
    """Only Get and Delete answer "not found", and only for a microVM whose Delete was sent before."""
    first_delete_s: dict[str, float] = {}
    for op in history.of(Kind.DELETE):
        first_delete_s[op.uid] = min(op.begun_s, first_delete_s.get(op.uid, op.begun_s))
    for op in history.ops:
        if op.said_gone and not first_delete_s.get(op.uid, op.ended_s) < op.ended_s:
            yield f"{_told(op)} was answered {op.code}: {op.text}"


def a_microvm_has_one_owner(history: History, world: World) -> Iterator[str]:
    """A microVM is placed on one host and stays placed there, whoever else claims to be that host or to have it."""
    owners: dict[str, set[str]] = defaultdict(set)
    for promises in (*(look.promises for look in history.looks), world.promises):
        for promise in promises:
            if promise.uid:
                owners[promise.uid].add(promise.host)
        for uid, times in Counter(promise.uid for promise in promises if promise.uid).items():
            if times > 1:
                yield f"microVM {uid} has {times} placements at one moment"
    for uid, hosts in owners.items():
        if len(hosts) > 1:
            yield f"microVM {uid} was placed on {len(hosts)} hosts: {', '.join(sorted(hosts))}"


def only_clients_delete(history: History, world: World) -> Iterator[str]:
    """A microVM whose create was acknowledged stays on its host until a client's Delete was sent, at every moment."""
    ends: dict[str, float] = {}
    for op in history.of(Kind.DELETE):
        ends[op.uid] = min(op.begun_s, ends.get(op.uid, op.begun_s))
    since = {op.uid: op.ended_s for op in history.of(Kind.CREATE) if op.ok}
    lives: dict[str, dict[str, float]] = defaultdict(dict)  # by host: microVMs, and until when each must be there
    for sample in sorted(history.samples, key=lambda sample: sample.at_s):
        here = {vm.uid for vm in sample.vms}
        of_host = lives[sample.host]
        for uid in [uid for uid in of_host if uid not in here]:
            if of_host.pop(uid) > sample.ended_s:
                yield f"microVM {uid} left {sample.host} before {sample.at_s:.3f} s, and no client has deleted it"
        of_host.update({uid: ends.get(uid, inf) for uid in here if since.get(uid, inf) < sample.at_s})


def only_hosts_get_microvms(history: History, world: World) -> Iterator[str]:
    """No microVM is ever created on a machine that only claims to be a host, and no placement names one."""
    strangers = [sample for sample in history.samples if sample.host not in world.hosts]
    for host, uid in sorted({(sample.host, vm.uid) for sample in strangers for vm in sample.vms}):
        yield f"{host} is no host, and has microVM {uid}"
    for name in {promise.host for look in history.looks for promise in look.promises} - world.hosts.keys():
        yield f"{name} is no host, and microVMs were placed on it"


def copies_are_noticed(history: History, world: World) -> Iterator[str]:
    """When two machines show one identity, `billet hosts` says so."""
    for name in world.unnoticed:
        yield f"{name} was not noticed"


def deleted_stays_deleted(history: History, world: World) -> Iterator[str]:
    """An acknowledged Delete is final; after a "not found" nobody sees the microVM again."""
    acknowledged = {op.uid for op in history.of(Kind.DELETE) if op.ok}
    places = _places(world)
    for uid in sorted(acknowledged & places.keys()):
        yield f"microVM {uid} has an acknowledged Delete but is on {places[uid]}"
    gone_s: dict[str, float] = {}
    for op in history.ops:
        if op.said_gone and op.uid:
            gone_s[op.uid] = min(op.ended_s, gone_s.get(op.uid, op.ended_s))
    for op in history.ops:
        for uid in [op.uid] if op.kind is Kind.GET else op.listed:
            if op.ok and op.begun_s > gone_s.get(uid, op.begun_s):
                yield f"microVM {uid} was 'not found' but seen again by {_told(op)}"


def lists_are_whole(history: History, world: World) -> Iterator[str]:
    """A List has every microVM that was acknowledged before the List began and not deleted before it ended.

    A List that says how old it is may lack younger microVMs.
    """
    deletes: dict[str, float] = {}
    for op in history.of(Kind.DELETE):
        deletes[op.uid] = min(op.begun_s, deletes.get(op.uid, op.begun_s))
    creates = [op for op in history.of(Kind.CREATE) if op.ok]
    for listing in history.of(Kind.LIST):
        if not listing.ok:
            continue
        for op in creates:
            old_enough = op.ended_s < listing.begun_s - listing.stale_s
            lives = old_enough and deletes.get(op.uid, listing.ended_s) >= listing.ended_s
            if lives and op.uid not in listing.listed:
                yield f"{_told(listing)} lacks {op.name} ({op.uid})"


def errors_are_those_foreseen(history: History, world: World) -> Iterator[str]:
    """Failed calls return only codes that tell the client what to do."""
    found: Counter[tuple[str, str, str]] = Counter()
    deletes = history.of(Kind.DELETE)
    for op in history.ops:
        foreseen = op.code in CODES or op.said_gone or FULL in op.text
        if op.ended_s and not foreseen and not _ended_before(op, deletes):
            found[op.kind, op.code, op.text] += 1
    for (kind, code, text), times in found.items():
        yield f"{kind} was answered {code} {times} times: {text}"


def all_is_well_again(history: History, world: World) -> Iterator[str]:
    """No process ends by itself, and after the last fault the fleet comes to rest."""
    for name in world.fallen:
        yield f"{name} ended by itself"
    if world.unrest:
        yield f"the fleet did not come to rest: {world.unrest}"


CHECKERS: tuple[Checker, ...] = (
    nothing_acknowledged_is_lost,
    nothing_is_made_twice,
    no_host_is_overcommitted,
    ledger_and_hosts_agree,
    not_found_means_gone,
    a_microvm_has_one_owner,
    only_clients_delete,
    only_hosts_get_microvms,
    copies_are_noticed,
    deleted_stays_deleted,
    lists_are_whole,
    errors_are_those_foreseen,
    all_is_well_again,
)


def check(history: History, world: World) -> dict[str, list[str]]:
    """The violations of each promise, by the name of its checker."""
    return {checker.__name__: list(checker(history, world)) for checker in CHECKERS}


def _places(world: World) -> dict[str, str]:
    return {vm.uid: host for host, vms in world.hosts.items() for vm in vms}


def _ended_before(op: Op, deletes: Collection[Op]) -> bool:
    """Whether a create was told that its microVM, which another client saw in a list, has been deleted already."""
    return (
        op.kind is Kind.CREATE
        and op.code == "FAILED_PRECONDITION"
        and any(f"microVM {end.uid} already" in op.text for end in deletes if end.begun_s < op.ended_s)
    )


def _told(op: Op) -> str:
    return f"{op.kind} {op.name or op.uid} through {op.server} at {op.begun_s:.3f} s".replace("  ", " ")
