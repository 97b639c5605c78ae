"""Decide whether an agent may join under the name that it gives (docs/adr/0023-host-identity.md).

A host's name is bound to the key and the machine of the agent that joined first under it. The leader decides anew at
each hello, and for every connected agent when its term begins.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

from billet.core.model import Host

LARGEST_TERM = 1 << 61  # of a hello. Stores count on from there, and terms from servers stay below
ROWS = 10_000  # microVMs that one host may show: they are kept in the leader's memory and in the store
END_OF_TERMS = 1 << 62


class Claim(NamedTuple):
    """What an agent says of itself in its hello. `host` has the key, machine and boot id; the key is proven."""

    host: Host
    instance: str = ""  # unique name of the agent's process
    daemon: str = ""  # identifies the socket of its flintlockd, "" = unknown
    term: int = 0  # the highest term that it has obeyed
    address: str = ""  # where it connects from, "host:port"


class Admitted(NamedTuple):
    """The agent joins; `host` is the record to store."""

    host: Host


class Waiting(NamedTuple):
    """The agent does not join now. Its connection stays open."""

    why: str
    later_term: bool = False  # it obeys a later term than the leader's; else it waits for an operator


class Refused(NamedTuple):
    """The agent does not join. `why` says what to do."""

    why: str


Verdict = Admitted | Waiting | Refused


class Conflicts(NamedTuple):
    """Names of other connected hosts that claim the same: "" = none."""

    key: str = ""
    daemon: str = ""


NO_CONFLICTS = Conflicts()


def decide(known: Host | None, claim: Claim, conflicts: Conflicts = NO_CONFLICTS, approve: bool = False) -> Verdict:
    """Whether an agent joins. `known` is the record of its name, None for a new name; `approve`: new names wait."""
    why = _mismatch(known, claim.host) if known and known.key else ""
    why = why or _conflict(claim.host.id, conflicts)
    if why:
        return Refused(why)
    if known is None and approve:
        return Waiting(f"new host, waits for an operator: run `billet host admit {claim.host.id}`")
    return Admitted(_bound(known, claim.host))


def _mismatch(known: Host, shown: Host) -> str:
    """Why an agent is not the one that a name is bound to; "" if it is."""
    name = known.id
    otherwise = "otherwise give this agent its own --id"
    if not shown.key:
        return (
            f"host {name!r} is bound to key {fingerprint(known.key)}, and this agent shows no key: upgrade it, or "
            f"run `billet host rebind {name}`"
        )
    if shown.key != known.key:
        return (
            f"host {name!r} is bound to key {fingerprint(known.key)}, and this agent has key "
            f"{fingerprint(shown.key)}: if this machine replaces the old one, or has lost its key "
            f"file, run `billet host rebind {name}`; {otherwise}"
        )
    if known.machine and shown.machine and shown.machine != known.machine:
        return (
            f"the key of host {name!r} was copied to another machine (machine id {shown.machine}, bound: "
            f"{known.machine}): if this machine replaces the old one, run `billet host rebind {name}`; otherwise "
            "delete its key file and give it its own --id"
        )
    if known.duplicate and shown.boot != known.boot:
        return copied(name)
    return ""


def copied(name: str) -> str:
    """Why an agent with the identity of a host that is connected from another machine is refused."""
    return (
        f"the identity of host {name!r} was copied: two machines show its key. Delete the key file of the copy and "
        f"give it its own --id; then run `billet host rebind {name}`, which keeps the agent that is connected"
    )


def _conflict(name: str, conflicts: Conflicts) -> str:
    if conflicts.key:
        return (
            f"this agent's key belongs to host {conflicts.key!r}, which is connected: if the machine was renamed, "
            "stop its old agent; if its disk was copied, delete the copy's key file"
        )
    if conflicts.daemon:
        return one_flintlockd(name, conflicts.daemon)
    return ""


def one_flintlockd(name: str, other: str, uid: str = "") -> str:
    """Why the second of two agents beside one flintlockd is refused. `uid`: a microVM that both show."""
    how = f"{name!r} shows microVM {uid} of {other!r}" if uid else "both agents call the same socket"
    return (
        f"hosts {other!r} and {name!r} have the same flintlockd ({how}): one flintlockd is one host. Stop one of the "
        f"two agents, or correct its --flintlock. If host {other!r} was renamed and has lost its key, give it "
        f"its old name and run `billet host rebind {other}`"
    )


def _bound(known: Host | None, shown: Host) -> Host:
    """The record of a host that joins: as it describes itself, with the marks of its record."""
    if known is None:
        return shown
    return replace(
        shown,
        cordoned=known.cordoned,
        fenced=known.fenced,
        key=shown.key or known.key,
        machine=shown.machine or known.machine,
        duplicate=known.duplicate,
    )


def with_marks(joined: Host, known: Host | None) -> Host:
    """The record to store for a host that has joined: `known` was perhaps changed by an operator since."""
    return replace(joined, cordoned=known.cordoned, fenced=known.fenced) if known else joined


def unbound(host: Host) -> Host:
    """A host's record without its identity: the next agent under its name binds it."""
    return replace(host, key="", machine="", boot="", duplicate=False)


def fingerprint(key: str) -> str:
    """A short name for a public key (base64), for people; "" for none."""
    return sha256(b64decode(key)).hexdigest()[:16] if key else ""


def supported_term(reported: Mapping[str, int], known: Collection[str]) -> int:
    """The highest term that a majority of the known hosts, at least two of them, have reached; 0 = none."""
    needed = max(2, len(known) // 2 + 1)
    terms = sorted((reported.get(host_id, 0) for host_id in known), reverse=True)
    return terms[needed - 1] if len(terms) >= needed else 0
