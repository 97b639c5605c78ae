"""The fault injector: starts everything, injects the faults of the plan, and repairs them at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from billet.core.model import Placement, PlacementState
from billet.sim.broken_hosts import BrokenHosts
from billet.sim.etcd import Etcd
from billet.sim.flintlockd import BACKLOG_S
from billet.sim.hosts import SimMachine
from billet.sim.loop import SimProcess
from billet.sim.network import STORE, Network
from billet.sim.rogues import Rogues
from billet.sim.servers import SimServer
from billet.sim.world import SimClock, World

FUSE_ACTS = 200  # a lit fuse kills a program at one of its next acts, at the latest at this one
JUMPS_S = (-3600.0, -30.0, 30.0, 3600.0)  # of a wall clock
DAYS_S = (-86_400.0, 86_400.0)
HANGS_S = (40.0, 160.0)  # of a flintlockd during an outage; the agent remembers an attempt for 60 s
ALMOST_LATE_S = 1.3  # how long the store is almost too late before a server is cut off; longer than a renewal takes
CUT_S = (3.0, 6.0)  # how long the server is cut off then; longer than the lease lasts
AWAY_S = (0.0, 3.5)  # how long a host is cut off in a race


class FaultInjector:
    """Injects all faults except those of single messages, which network.py and flintlockd.py inject."""

    def __init__(
        self, world: World, net: Network, etcd: Etcd, servers: list[SimServer], machines: list[SimMachine]
    ) -> None:
        self._world, self._net, self._etcd = world, net, etcd
        self._servers, self._machines = servers, machines
        self._chance = world.chance("fault injector")
        self._more = world.chance("more faults of the injector")
        self.a_day_later: Callable[[], None] = lambda: None  # called when a clock has jumped by a day
        etcd.reserved = self._race
        self._rogues = Rogues(world, net, etcd, servers, machines)
        self._broken = BrokenHosts(world, machines)

    def begin(self) -> None:
        """Start everything, and schedule the faults."""
        faults = self._world.faults
        for server in self._servers:
            server.start(self._fuse)
        for machine in self._machines:
            machine.daemon.start()
            machine.start_agent(self._fuse)
        self._schedule(self._chance, (
            (faults.resets, self._net.reset),
            (faults.cuts, self._cut),
            (faults.store_cuts, self._cut_store),
            (faults.server_kills, self._kill_server),
            (faults.server_stops, self._end_server),
            (faults.agent_kills, self._kill_agent),
            (faults.daemon_kills, self._kill_daemon),
            (faults.daemon_hangs, self._hang_daemon),
            (faults.machine_kills, self._kill_machine),
            (faults.stops, self._stop),
            (faults.clock_jumps, self._jump),
        ))  # fmt: skip
        self._schedule(self._more, (
            (faults.daemon_outages, self._daemon_out),
            (faults.machine_outages, self._machine_out),
            (faults.redials, self._net.redial),
            (faults.agent_stops, self._end_agent),
            (faults.late_cuts, self._cut_late),
            (faults.day_jumps, self._jump_a_day),
        ))  # fmt: skip
        for chance, strikes in (*self._rogues.strikes(), *self._broken.strikes()):
            self._schedule(chance, strikes)

    def calm(self) -> None:
        """End all faults, and start everything that is down."""
        self._world.calm = True
        self._rogues.end()
        self._broken.end()
        self._net.heal()
        for server in self._servers:
            server.stand_still(False)
            self._revive_server(server)
        for machine in self._machines:
            if machine.process and machine.process.stopped:
                machine.process.go_on()
            self._revive_machine(machine)

    def _schedule(self, chance: Random, faults: Iterable[tuple[float, Callable[[], None]]]) -> None:
        for rate, strike in faults:
            if rate:
                self._next(rate, strike, chance)

    def _next(self, rate: float, strike: Callable[[], None], chance: Random) -> None:
        def fire() -> None:
            if not self._world.calm:
                strike()
                self._next(rate, strike, chance)

        self._later(chance.expovariate(rate), fire)

    def _later(self, delay_s: float, then: Callable[[], None]) -> None:
        self._world.loop.call_later(delay_s, then, context=self._world.loop.world)

    def _down_s(self) -> float:
        return self._chance.expovariate(1.0) * self._world.faults.down_s

    def _fuse(self, process: SimProcess) -> None:
        """Let this program die at a random act, with the probability of the plan."""
        if self._world.happens(self._chance, self._world.faults.fuse):

            def blow() -> None:
                if self._world.calm:
                    return
                self._world.tell(process.name, "dies in the middle of its work")
                process.kill()
                self._later(self._down_s(), self._revive_all)

            process.light_fuse(self._chance.randrange(1, FUSE_ACTS), blow)

    # The network.

    def _cut(self) -> None:
        """Cut some places off from all others, in one direction or both."""
        places = [server.id for server in self._servers] + [machine.host.id for machine in self._machines] + [STORE]
        apart = set(self._chance.sample(places, self._chance.randint(1, max(1, len(places) // 2))))
        ways = self._chance.choice(("both", "in", "out"))
        self._apart(apart, [place for place in places if place not in apart], ways)

    def _cut_store(self) -> None:
        self._apart({self._chance.choice(self._servers).id}, [STORE], self._chance.choice(("both", "in", "out")))

    def _apart(self, apart: set[str], others: list[str], ways: str) -> None:
        until_s = self._world.now_s + self._chance.expovariate(1.0) * self._world.faults.cut_s
        self._world.tell("network", f"{', '.join(sorted(apart))} cut off ({ways}) until {until_s:.3f}")
        for place in sorted(apart):
            for other in others:
                if ways != "in":
                    self._net.cut(place, other, until_s)
                if ways != "out":
                    self._net.cut(other, place, until_s)

    # Programs and machines.

    def _kill_server(self) -> None:
        server = self._chance.choice(self._servers)
        if server.up:
            self._world.tell(server.process.name, "is killed")
            server.process.kill()
            self._later(self._down_s(), self._revive_all)

    def _end_server(self) -> None:
        """Shut a server down cleanly, and start it again."""
        server = self._chance.choice(self._servers)
        if server.up and not server.process.stopped:
            server.process.at_death.append(lambda: self._later(self._down_s(), self._revive_all))
            server.process.spawn(server.finish())

    def _kill_agent(self) -> None:
        machine = self._chance.choice(self._machines)
        if machine.process and machine.agent_up:
            self._world.tell(machine.process.name, "is killed")
            machine.process.kill()
            self._later(self._down_s(), self._revive_all)

    def _kill_daemon(self) -> None:
        machine = self._chance.choice(self._machines)
        if machine.daemon.up:
            self._world.tell(machine.host.id, "its flintlockd is killed")
            machine.daemon.kill()
            self._later(self._down_s(), self._revive_all)

    def _hang_daemon(self) -> None:
        self._chance.choice(self._machines).daemon.hang()

    def _kill_machine(self) -> None:
        self._lose_power(self._chance.choice(self._machines))

    def _lose_power(self, machine: SimMachine) -> None:
        """Kill agent and flintlockd at once, without closing their connections."""
        if machine.process and machine.agent_up and machine.daemon.up:
            self._world.tell(machine.host.id, "the machine loses power")
            self._net.died(machine.process, silently=True)
            machine.process.kill()
            machine.daemon.kill()
            machine.daemon.lose_power(self._world.faults.forgets)
            self._later(self._down_s(), self._revive_all)

    # Outages that outlast every time-out of the code.

    def _daemon_out(self) -> None:
        """Hang flintlockd, or keep it down."""
        machine = self._more.choice(self._machines)
        if self._more.random() < 0.5:
            self._hang_long(machine)
        elif machine.daemon.up:
            self._out(machine, "flintlockd")
            machine.daemon.kill()

    def _hang_long(self, machine: SimMachine) -> None:
        """Hang flintlockd. Late in that, and as it goes on, clients may send again what it has in its backlog."""
        hang_s = self._more.uniform(*HANGS_S)
        machine.daemon.hang(hang_s)

        def untimely() -> None:
            for placement in list(self._etcd.state.placements.values()):
                if placement.host == machine.host.id and placement.state is PlacementState.RESERVED:
                    self._etcd.untimely(placement)

        self._later(hang_s * self._more.uniform(0.5, 1.0), untimely)
        self._later(hang_s + self._more.uniform(0.0, BACKLOG_S), untimely)

    def _machine_out(self) -> None:
        machine = self._more.choice(self._machines)
        self._out(machine, "flintlockd", "machine")
        self._lose_power(machine)

    def _out(self, machine: SimMachine, *parts: str) -> None:
        out_s = self._world.faults.outage_s * self._more.uniform(0.5, 1.5)
        until_s = self._world.now_s + out_s
        self._world.tell(machine.host.id, f"its {' and its '.join(parts)} will be down until {until_s:.3f}")
        machine.out_until_s |= dict.fromkeys(parts, until_s)
        self._later(out_s + 0.001, self._revive_all)

    # Races.

    def _race(self, placement: Placement) -> None:
        """As a reservation is written, let something happen that the order to its host must take into account."""
        machine = next((machine for machine in self._machines if machine.host.id == placement.host), None)
        if machine is None:
            return
        if self._world.happens(self._more, self._world.faults.claim_hangs):
            self._hang_at_claim(machine)
        if self._world.happens(self._more, self._world.faults.races):
            self._more.choice(RACES)(self, machine)

    def _race_redial(self, machine: SimMachine) -> None:
        self._net.redial(machine.host.id)

    def _race_restart(self, machine: SimMachine) -> None:
        """Restart the agent at once."""
        if machine.process and machine.agent_up:
            self._world.tell(machine.process.name, "is killed, and started again")
            machine.process.kill()
            self._revive_machine(machine)

    def _race_term(self, machine: SimMachine) -> None:
        """End the term while the host is away for a moment."""
        away_s = self._more.uniform(*AWAY_S)
        self._world.tell("network", f"{machine.host.id} is away for {away_s:.3f} s, and the term ends")
        self._net.hang_up(machine.host.id)
        for server in self._servers:
            self._net.cut(machine.host.id, server.id, self._world.now_s + away_s)
        self._etcd.depose()

    def _race_power(self, machine: SimMachine) -> None:
        self._lose_power(machine)

    def _hang_at_claim(self, machine: SimMachine) -> None:
        """Hang flintlockd, and perhaps shut the agent down meanwhile."""
        self._hang_long(machine)
        if self._more.random() < 0.5:
            self._later(self._more.uniform(0.0, HANGS_S[0]), lambda: self._end(machine))

    def _end_agent(self) -> None:
        self._end(self._more.choice(self._machines))

    def _end(self, machine: SimMachine) -> None:
        """Shut an agent down cleanly, and start it again."""
        process = machine.process
        if process and machine.agent_up and not process.stopped and not self._world.calm:
            down_s = self._more.expovariate(1.0) * self._world.faults.down_s
            process.at_death.append(lambda: self._later(down_s, self._revive_all))
            process.spawn(machine.finish_agent())

    def _cut_late(self) -> None:
        """Cut the leader off from the store, after answers that were almost too late."""
        server = self._more.choice([server for server in self._servers if server.leads] or self._servers)
        until_s = self._world.now_s + ALMOST_LATE_S
        self._world.late_until_s[server.process.name] = until_s
        self._world.tell(server.process.name, f"gets late answers from the store until {until_s:.3f}, then none")
        cut_s = self._more.uniform(*CUT_S)

        def cut() -> None:
            if not self._world.calm:
                self._net.cut(server.id, STORE, self._world.now_s + cut_s)

        self._later(ALMOST_LATE_S, cut)

    def _revive_all(self) -> None:
        for server in self._servers:
            self._revive_server(server)
        for machine in self._machines:
            self._revive_machine(machine)

    def _revive_server(self, server: SimServer) -> None:
        if not server.up:
            server.start(self._fuse)

    def _revive_machine(self, machine: SimMachine) -> None:
        now_s = 1e9 if self._world.calm else self._world.now_s
        if not machine.daemon.up and now_s >= machine.out_until_s["flintlockd"]:
            machine.daemon.start()
        if not machine.agent_up and now_s >= machine.out_until_s["machine"]:
            machine.start_agent(self._fuse)

    def _stop(self) -> None:
        """Stop a server or an agent (SIGSTOP) for a while."""
        stop_s = self._chance.expovariate(1.0) * self._world.faults.stop_s
        if self._chance.random() < 0.6:
            leading = [server for server in self._servers if server.leads]
            server = self._chance.choice(leading or self._servers)
            process = server.process
            if server.up and not process.stopped:
                self._world.tell(process.name, f"is stopped for {stop_s:.3f} s")
                server.stand_still(True)
                self._later(stop_s, lambda: server.stand_still(False))
            return
        agent = self._chance.choice(self._machines).process
        if agent and agent.alive and not agent.stopped:
            self._world.tell(agent.name, f"is stopped for {stop_s:.3f} s")
            agent.stop()
            self._later(stop_s, lambda: agent.go_on() if agent.stopped else None)

    def _jump(self) -> None:
        self._jump_by(self._chance.choice(JUMPS_S), self._chance)

    def _jump_a_day(self) -> None:
        self._jump_by(self._more.choice(DAYS_S), self._more)
        self.a_day_later()

    def _jump_by(self, jump_s: float, chance: Random) -> None:
        clocks: list[SimClock] = [server.clock for server in self._servers]
        clock = chance.choice(clocks)
        clock.offset_s += jump_s
        self._world.tell("clocks", f"clock of server {clocks.index(clock)} jumps by {jump_s:+.0f} s")


RACES = (
    FaultInjector._race_redial,
    FaultInjector._race_restart,
    FaultInjector._race_term,
    FaultInjector._race_power,
)
