"""The agents that are connected to a server, and which of them holds each host's name.

While the server leads, the leader's gate decides who joins. While it does not, the first agent under a name holds it,
and agents with other keys wait beside it: who is right is known only to the leader that this server may become.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from billet.broadcast import Broadcast
from billet.core.identity import Admitted, Claim, Refused, Waiting
from billet.core.model import Bid, Refusal
from billet.leader.leadership import LinkTerm
from billet.link import messages
from billet.link.connection import AgentConnection
from billet.link.hello import get_claim, proves
from billet.link.outbox import PING_AFTER_S, PONG_WITHIN_S
from billet.log_throttle import LogThrottle
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()


class Roster:
    """All agents that have said hello to this server."""

    def __init__(self, nonce: Callable[[], bytes], certificates: bool, left: Callable[[str], None]) -> None:
        """`certificates`: agents show certificates, which must name their hosts. `left`: a host is away now."""
        self.hosts: dict[str, AgentConnection] = {}  # the agent that holds each name; while leading, all have joined
        self.arrivals = Broadcast()  # sent whenever a name is held by another connection
        self.term: LinkTerm | None = None
        self.last_term: LinkTerm | None = None  # of this server, which answers stale reads after it
        self.leader = ""  # link address of the leading server, when that is another one
        self._waiting: list[AgentConnection] = []  # the others, in order of arrival
        self._nonce = nonce
        self._certificates = certificates
        self._left = left
        self._throttle = LogThrottle()

    def all(self) -> list[AgentConnection]:
        """Every agent, first those that hold a name."""
        return [*self.hosts.values(), *self._waiting]

    def decide_all(self) -> None:
        """A term has begun: decide about every agent anew."""
        for connection in self.all():
            if self._knows(connection):  # deciding about another has not sent it away
                self._decide(connection)

    def heard(self, host_id: str, answers: Collection[Bid | Refusal]) -> None:
        """A host has answered a call for bids."""
        if self.term:
            self.term.fleet.answered(host_id, answers, asyncio.get_running_loop().time())

    def stands(self, host_id: str) -> bool:
        """Whether a host takes part in auctions without an answer."""
        return bool(self.term and self.term.fleet.standing(host_id, asyncio.get_running_loop().time()))

    def tell_leader(self, connection: AgentConnection, why: str = "") -> None:
        """Tell an agent that it need not act: another server leads, or it waits."""
        connection.put(pb.Down(standby=pb.Standby(leader=self.leader, why=why)))

    def challenge(self, connection: AgentConnection) -> None:
        """Ask an agent for its signed hello."""
        connection.challenge(self._nonce())

    def hello(self, connection: AgentConnection, hello: pb.Hello) -> None:
        """An agent has said hello."""
        try:
            names = connection.certified_names if self._certificates else None
            if connection.claim:
                self._again(connection, connection.claim, hello)
                return
            connection.claim = get_claim(hello, connection.nonce, connection.address, names)
        except ValueError as error:
            self._turn_away(connection, hello.host, str(error))
            return
        self._waiting.append(connection)
        self._decide(connection)

    def _again(self, connection: AgentConnection, claim: Claim, hello: pb.Hello) -> None:
        """A second hello tells a newer term, or answers a challenge; it changes nothing else. Raises ValueError."""
        proven = not hello.public_key or proves(hello, connection.nonce)
        again = get_claim(hello, connection.nonce, claim.address) if proven else None
        same = (hello.host, hello.instance) == (claim.host.id, claim.instance)
        if not same or (again and again.host.key != claim.host.key):
            raise ValueError("one connection says hello for one agent only")
        if not (again and self._knows(connection)):
            return
        if connection.doubted:
            connection.doubted = False
            if self.term:
                self.term.gate.copied(claim.host.id)
        if again.term > claim.term:
            connection.claim = claim._replace(term=again.term)
            if self.term and again.term > self.term.number:
                self._decide(connection)

    def gone(self, connection: AgentConnection) -> None:
        """Forget a connection that has closed."""
        if not self._knows(connection):
            return
        held = self._leave(connection)
        rivals = [other for other in self._waiting if other.host_id == connection.host_id and self._may_hold(other)]
        if held and rivals and not self.term:
            self._hold(rivals[0])

    def dismiss(self, host_id: str, why: str) -> None:
        """Send the agent away that holds this name."""
        if connection := self.hosts.get(host_id):
            self.gone(connection)
            connection.say_goodbye(why)

    def regreet(self, host_id: str) -> None:
        """Decide once more about the agents that wait under this name."""
        for connection in [waiting for waiting in self._waiting if waiting.host_id == host_id]:
            self._decide(connection)

    # Who holds a name.

    def _decide(self, connection: AgentConnection) -> None:
        """Let an agent join, or wait, or send it away."""
        claim = connection.claim
        assert claim
        for other in [*filter(None, [self.hosts.get(claim.host.id)]), *self._waiting]:
            if other is not connection and other.claim and _same_process(other.claim, claim):
                self._leave(other)  # a connection that is dead, or was left
        holder = self.hosts.get(claim.host.id)
        taken = _taken(holder) if holder and holder is not connection else ""
        if self.term is None:
            self._follow(connection, claim, holder, taken)
            return
        match self.term.gate.greet(claim, taken):
            case Admitted():
                self._hold(connection)
                self.term.fleet.forget(connection.host_id)
                connection.put(pb.Down(welcome=messages.put_welcome(self.term.number, self.term.weights)))
            case Waiting(why):
                self._wait(connection)
                self.tell_leader(connection, why)
            case Refused(why):
                self._refuse(connection, claim, holder, why)

    def _follow(self, connection: AgentConnection, claim: Claim, holder: AgentConnection | None, taken: str) -> None:
        """While another server leads, the first agent with each key stays connected."""
        rivals = [holder, *self._waiting] if holder else self._waiting
        if taken and any(
            rival is not connection and rival.claim and rival.claim.host.key == claim.host.key
            for rival in rivals
            if rival.host_id == claim.host.id
        ):
            self._refuse(connection, claim, holder, taken)
            return
        if not taken and self._may_hold(connection):
            self._hold(connection)
        self.tell_leader(connection)

    def _may_hold(self, connection: AgentConnection) -> bool:
        """Whether an agent may answer stale reads under its name: this server has not known another key for it."""
        last = self.last_term
        return last is None or connection.claim is None or last.gate.vouches(connection.claim)

    def _refuse(self, connection: AgentConnection, claim: Claim, holder: AgentConnection | None, why: str) -> None:
        """Send an agent away. If it has the holder's key on another machine, ask whether the holder lives."""
        if holder and holder is not connection and holder.claim and claim.host.key:
            other = holder.claim.host
            if claim.host.key == other.key and claim.host.boot != other.boot and not holder.doubted:
                holder.doubted = True
                self.challenge(holder)
        self._turn_away(connection, claim.host.id, why)

    def _turn_away(self, connection: AgentConnection, host_id: str, why: str) -> None:
        self.gone(connection)
        if self._throttle.should_log((host_id, connection.address.rpartition(":")[0]), why, _now_s()):
            log.warning("agent refused", host=host_id, address=connection.address, why=why)
        connection.say_goodbye(why)

    def _hold(self, connection: AgentConnection) -> None:
        if self.hosts.get(connection.host_id) is not connection:
            self._waiting.remove(connection)
            self.hosts[connection.host_id] = connection
            log.info("host connected", host=connection.host_id, address=connection.address)
        self.arrivals.send()

    def _wait(self, connection: AgentConnection) -> None:
        if self.hosts.get(connection.host_id) is connection:
            self._drop(connection)
            self._waiting.append(connection)

    def _leave(self, connection: AgentConnection) -> bool:
        """Forget an agent, and tell the leader's gate; return whether it held its name."""
        held = self._drop(connection)
        if self.term:
            self.term.gate.left(connection.host_id, connection.instance)
        return held

    def _drop(self, connection: AgentConnection) -> bool:
        """Take an agent off the roster; return whether it held its name."""
        if connection in self._waiting:
            self._waiting.remove(connection)
            return False
        del self.hosts[connection.host_id]
        log.info("host disconnected", host=connection.host_id)
        self._left(connection.host_id)
        return True

    def _knows(self, connection: AgentConnection) -> bool:
        return self.hosts.get(connection.host_id) is connection or connection in self._waiting


def _same_process(one: Claim, other: Claim) -> bool:
    return (one.host.id, one.instance, one.host.key) == (other.host.id, other.instance, other.host.key)


def _taken(holder: AgentConnection) -> str:
    """Why an agent is refused whose name another agent holds, or for some seconds its own dead connection."""
    return (
        f"another agent is connected as host {holder.host_id!r}, from {holder.address}: give each host its own --id. "
        f"If that agent has died, this one is accepted within {PING_AFTER_S + PONG_WITHIN_S:.0f} s"
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
