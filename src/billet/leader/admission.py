"""Decide which agents join, and keep a list of those that do not (core/identity.py has the rules).

Everything that hosts send passes through here on its way to the accuracy tracker and the reconciler. What an agent
says that was not let in changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import structlog

from billet.core.errors import InvalidRequest
from billet.core.identity import (
    ROWS,
    Admitted,
    Claim,
    Conflicts,
    Refused,
    Verdict,
    Waiting,
    copied,
    decide,
    one_flintlockd,
    supported_term,
    unbound,
    with_marks,
)
from billet.core.memory import remember
from billet.core.model import Host, Observed, PlacementState
from billet.core.report import InventoryUpdate, Report
from billet.leader.ledger import Ledger
from billet.leader.reconciler import Reconciler
from billet.ports import Clock, Hosts, HostsListener

log = structlog.get_logger()

REFUSED_KEPT_S = 600.0  # how long a refused agent is listed that tries no more; one that lives tries every 2 s


class NotJoined(NamedTuple):
    """An agent that was not let in, for people."""

    claim: Claim
    verdict: Waiting | Refused
    age_s: float  # since it was last heard


class Admission:
    """Who has joined in one term, who waits, and who was refused."""

    def __init__(
        self, ledger: Ledger, reconciler: Reconciler, inner: HostsListener, hosts: Hosts, approve: bool, clock: Clock
    ) -> None:
        """`inner` listens to the hosts that have joined. `approve`: a new host waits for an operator."""
        self.trusted_term = 0  # a later term that the hosts have obeyed: the next one must be above it
        self._ledger = ledger
        self._reconciler = reconciler
        self._inner = inner
        self._hosts = hosts
        self._approve = approve
        self._clock = clock
        self._joined: dict[str, Claim] = {}
        self._waiting: dict[str, tuple[Claim, Waiting]] = {}
        self._refused: dict[tuple[str, str, str], tuple[Claim, Refused, float]] = {}  # by name, key and IP address
        self._terms: dict[str, int] = {}  # that hosts have reported
        self._of_key: dict[str, str] = {}  # names of joined hosts
        self._of_daemon: dict[str, str] = {}
        self._shown: dict[str, str] = {}  # uid -> the joined host that shows it
        self._uids: dict[str, set[str]] = {}  # by joined host
        self._beside: dict[
            tuple[str, str], tuple[str, str]
        ] = {}  # name, instance -> other host and uid that both show
        self._ignored: dict[str, dict[str, Observed]] = {}  # by joined host and uid: microVMs that are another host's

    # What the link asks and tells (ports.Gate).

    def greet(self, claim: Claim, taken: str = "") -> Verdict:
        """See Gate."""
        name = claim.host.id
        verdict = decide(self._record(name), claim, self._conflicts(claim), self._approve)
        if isinstance(verdict, Admitted):
            verdict = Refused(taken) if taken else self._judge_term(claim, verdict)
        if (
            isinstance(verdict, Waiting)
            and (other := self._waiting.get(name))
            and other[0].instance != claim.instance
        ):
            verdict = Refused(f"another agent waits under the name {name!r}, from {other[0].address}")
        match verdict:
            case Admitted(host):
                self._join(claim._replace(host=host))
            case Waiting():
                self.left(name, claim.instance)
                self._waiting[name] = (claim, verdict)
            case Refused():
                self._list_refused(claim, verdict)
        return verdict

    def _list_refused(self, claim: Claim, verdict: Refused) -> None:
        key = (claim.host.id, claim.host.key, claim.address.rpartition(":")[0])
        self._refused.pop(key, None)
        remember(self._refused, key, (claim, verdict, self._clock.monotonic_s()), 100)

    def vouches(self, claim: Claim) -> bool:
        """See Gate."""
        known = self._ledger.state.hosts.get(claim.host.id)
        return known is None or not known.key or known.key == claim.host.key

    def copied(self, host_id: str) -> None:
        """The identity of this connected host was shown by another machine: only its present boot is let in now."""
        seen = self._reconciler.seen.get(host_id)
        if seen and not seen.host.duplicate:
            log.error("identity of host was copied", host=host_id, advice=copied(host_id))
            self._reconciler.redescribe(replace(seen.host, duplicate=True))

    def reported(self, host_id: str, report: Report) -> None:
        """See HostsListener."""
        claim = self._joined.get(host_id)
        if claim is None:
            return
        if report.flintlockd and report.flintlockd != claim.daemon:  # flintlockd was restarted
            self._index(claim, remove=True)
            claim = self._joined[host_id] = claim._replace(daemon=report.flintlockd)
            other = self._of_daemon.get(report.flintlockd, "")
            if other and self._dismissed(host_id, other, "") == host_id:
                return
            self._index(claim)
        self._inner.reported(host_id, report)
        freed = [row for row in self._ignored.get(host_id, {}).values() if self._owner(row.uid, host_id) == host_id]
        if freed:  # their host was fenced or removed
            creating = self._reconciler.seen[host_id].creating
            self.observed(host_id, InventoryUpdate(False, freed, [], list(creating)))

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """See HostsListener."""
        if host_id not in self._joined or not self._has_own_flintlockd(host_id, inventory):
            return
        inventory = inventory._replace(seen=[row for row in inventory.seen if row.uid not in self._ignored[host_id]])
        uids = self._uids.setdefault(host_id, set())
        news = {row.uid for row in inventory.seen}
        if not inventory.full and len(uids) + len(news - uids) > ROWS:
            self._hosts.dismiss(host_id, f"host {host_id!r} shows more than {ROWS} microVMs; {ROWS} are allowed")
            return
        for uid in uids - news if inventory.full else uids.intersection(inventory.gone):
            self._shown.pop(uid, None)
            uids.discard(uid)
        uids |= news
        self._shown.update(dict.fromkeys(news, host_id))
        self._inner.observed(host_id, inventory)

    def left(self, host_id: str, instance: str) -> None:
        """An agent's connection has closed. Nothing happens if it is not the one that joined, or waits."""
        waiting = self._waiting.get(host_id)
        if waiting and waiting[0].instance == instance:
            del self._waiting[host_id]
        claim = self._joined.get(host_id)
        if claim and claim.instance == instance:
            del self._joined[host_id]
            self._index(claim, remove=True)
            self._ignored.pop(host_id, None)
            for uid in self._uids.pop(host_id, ()):
                self._shown.pop(uid, None)
            self._inner.left(host_id)

    def sharing(self, host_id: str) -> list[str]:
        """The agents that were refused since they show a microVM of this host, by name."""
        showing = {name for (name, _), (other, uid) in self._beside.items()
                   if other == host_id and self._owner(uid, name) == host_id}  # fmt: skip
        return sorted(showing - {host_id})

    # What an operator does.

    async def rebind(self, host_id: str) -> None:
        """Bind a name to the agent that is connected, or else to the next one. Raises InvalidRequest, StoreError."""
        if host_id not in self._ledger.state.hosts:
            raise InvalidRequest(f"there is no host {host_id!r}; `billet hosts` lists the hosts")
        seen = self._reconciler.seen.get(host_id)
        if seen:
            self._reconciler.redescribe(replace(seen.host, duplicate=False))
            joined = seen.host
            await self._ledger.amend(host_id, lambda known: with_marks(joined, known))
        else:
            await self._ledger.amend(host_id, lambda known: unbound(known) if known else None)
        self._forget(host_id)
        log.warning("host rebound", host=host_id, connected=seen is not None)

    async def admit(self, host_id: str) -> None:
        """Let in the new host that waits under this name. Raises InvalidRequest, StoreError."""
        claim, verdict = self._waiting.get(host_id, (None, None))
        if claim is None or verdict is None or verdict.later_term:
            raise InvalidRequest(
                f"no new host waits under the name {host_id!r}; `billet hosts` lists those that wait"
            )
        host = claim.host
        await self._ledger.amend(host_id, lambda known: known or host)
        self._forget(host_id)
        log.warning("host admitted by an operator", host=host_id, address=claim.address)
        self._hosts.regreet(host_id)

    def accept_term(self, host_id: str) -> int:
        """Believe the later term that a host reports, and campaign above it. Raises InvalidRequest."""
        claim, verdict = self._waiting.get(host_id, (None, None))
        if claim is None or verdict is None or not verdict.later_term:
            raise InvalidRequest(f"host {host_id!r} reports no later term; `billet hosts` lists the hosts that do")
        self.trusted_term = claim.term
        self._ledger.end(f"an operator accepted the later term {claim.term} of host {host_id}")
        return claim.term

    def not_joined(self) -> list[NotJoined]:
        """The agents that wait or were refused, by name."""
        now_s = self._clock.monotonic_s()
        waiting = [NotJoined(claim, verdict, 0.0) for claim, verdict in list(self._waiting.values())]
        refused = [NotJoined(claim, verdict, now_s - at_s) for claim, verdict, at_s in list(self._refused.values())]
        recent = [agent for agent in refused if agent.age_s < REFUSED_KEPT_S]
        return sorted(waiting + recent, key=lambda agent: (agent.claim.host.id, agent.claim.address))

    # How it is decided.

    def _record(self, host_id: str) -> Host | None:
        """A host's record; of a connected host as it is about to be stored."""
        seen = self._reconciler.seen.get(host_id)
        known = self._ledger.state.hosts.get(host_id)
        return with_marks(seen.host, known) if seen else known

    def _judge_term(self, claim: Claim, verdict: Admitted) -> Verdict:
        """A host that has obeyed a later term does not join; when enough hosts have, this term ends."""
        name, term = claim.host.id, self._ledger.term.number
        self._terms[name] = max(claim.term, self._terms.get(name, 0))
        if claim.term <= term:
            return verdict
        late = [waits for waits, (_, why) in self._waiting.items() if why.later_term]
        supported = supported_term(self._terms, {*self._ledger.state.hosts, *self._joined, *late, name})
        if supported > term:
            self.trusted_term = max(self.trusted_term, supported)
            self._ledger.end(
                f"most hosts have seen term {supported}: another server leads, or the store was restored"
            )
        return Waiting(
            f"it obeys term {claim.term}, and this leader's is {term}: if the store was restored, run "
            f"`billet host accept-term {name}`",
            later_term=True,
        )

    def _conflicts(self, claim: Claim) -> Conflicts:
        """Joined hosts that have this agent's key or flintlockd. A host that has fewer microVMs than it gives way."""
        name = claim.host.id
        of_key, of_daemon = self._of_key.get(claim.host.key, ""), self._of_daemon.get(claim.daemon, "")
        other, uid = self._beside.get((name, claim.instance), ("", ""))
        if other and not self._outranks(name, other) and other in (self._shown.get(uid), self._owner(uid, name)):
            return Conflicts(of_key if of_key != name else "", other)  # however few microVMs that one has
        if of_daemon in self._joined and of_daemon != name and self._yields(name, of_daemon) == of_daemon:
            self._dismiss(of_daemon, one_flintlockd(of_daemon, name))
            of_daemon = ""
        return Conflicts(of_key if of_key != name else "", of_daemon if of_daemon != name else "")

    def _has_own_flintlockd(self, host_id: str, inventory: InventoryUpdate) -> bool:
        """Whether no other host has one of these microVMs, or that one gave way. Then what it owns is ignored."""
        ignored = self._ignored.setdefault(host_id, {})
        for uid in list(ignored) if inventory.full else inventory.gone:
            ignored.pop(uid, None)
        for row in inventory.seen:
            ignored.pop(row.uid, None)
            other = self._shown.get(row.uid, host_id)
            if other == host_id:
                other = self._owner(row.uid, host_id)
            if other == host_id:
                continue
            if self._dismissed(host_id, other, row.uid) == host_id:
                return False
            if self._owner(row.uid, host_id) != host_id:
                ignored[row.uid] = row
        return True

    def _outranks(self, host_id: str, other: str) -> bool:
        """Whether each of the two has shown a microVM of the other, and this one has more.

        So they have one flintlockd, which no host can make up alone. One of them goes on, or neither could.
        """
        beside = {(name, rival) for (name, _), (rival, _) in self._beside.items()}
        placed = {name: len(self._ledger.state.on_host.get(name, ())) for name in (host_id, other)}
        both = {(host_id, other), (other, host_id)} <= beside
        return both and (placed[host_id], other) > (placed[other], host_id)

    def _owner(self, uid: str, host_id: str) -> str:
        """The host that a microVM was placed on, if it is bound to another key than `host_id`; else `host_id`.

        A host keeps what it has lost or deleted: only it may say so. What a fence released is deleted wherever it is.
        """
        state = self._ledger.state
        placement = state.of_uid(uid)
        if placement is None or placement.host == host_id or placement.state is PlacementState.FENCED:
            return host_id
        owner, shown = state.hosts.get(placement.host), self._record(host_id)
        return placement.host if owner and owner.key and shown and shown.key != owner.key else host_id

    def _dismissed(self, host_id: str, other: str, uid: str) -> str:
        """Send away one of two agents beside one flintlockd, if it is connected; return its name."""
        loser = self._yields(host_id, other, uid)
        winner = other if loser == host_id else host_id
        if uid:
            remember(self._beside, (loser, self._joined[loser].instance), (winner, uid), 100)
            if self._outranks(loser, winner):
                loser, winner, uid = winner, loser, ""
        if loser in self._joined:
            self._dismiss(loser, one_flintlockd(loser, winner, uid))
        return loser

    def _yields(self, host_id: str, other: str, uid: str = "") -> str:
        """The one that does not own the microVM, or has fewer of them; if neither does, `host_id`, the later one."""
        state = self._ledger.state
        placement = state.of_uid(uid) if uid else None
        if placement and placement.host in (host_id, other):
            return other if placement.host == host_id else host_id
        return other if len(state.on_host.get(host_id, ())) > len(state.on_host.get(other, ())) else host_id

    def _dismiss(self, host_id: str, why: str) -> None:
        claim = self._joined[host_id]
        log.error("host refused", host=host_id, why=why)
        self._list_refused(claim, Refused(why))
        self._hosts.dismiss(host_id, why)

    def _join(self, claim: Claim) -> None:
        name = claim.host.id
        self._waiting.pop(name, None)
        for key in [key for key in self._refused if key[:2] == (name, claim.host.key)]:
            del self._refused[key]
        if before := self._joined.pop(name, None):
            self._index(before, remove=True)
        for uid in self._uids.pop(name, ()):
            self._shown.pop(uid, None)
        self._ignored.pop(name, None)
        self._joined[name] = claim
        self._index(claim)
        self._inner.joined(claim.host)

    def _index(self, claim: Claim, remove: bool = False) -> None:
        for index, value in ((self._of_key, claim.host.key), (self._of_daemon, claim.daemon)):
            if remove and index.get(value) == claim.host.id:
                del index[value]
            elif not remove and value:
                index[value] = claim.host.id

    def _forget(self, host_id: str) -> None:
        """An operator has decided about a name: list no earlier refusals of it."""
        for key in [key for key in self._refused if key[0] == host_id]:
            del self._refused[key]
