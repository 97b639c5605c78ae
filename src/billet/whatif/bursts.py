"""Simulate bursts: many creates at once, and the time of each until CREATED. A discrete-event model of boots.

Each host boots its microVMs one after another, and pulls a missing image on its first use. Hosts estimate their boot
times from past boots, and bid, with the agent's own code (core/boots/queue.py). Other rules ignore boots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil, exp
from statistics import NormalDist
from typing import NamedTuple

from billet.core.auction import award, forecast_of
from billet.core.bidding import bid
from billet.core.boots.queue import BootQueue
from billet.core.model import Auction, Award, Bid, Forecast, HostView, Image, Resources
from billet.core.scoring import Weights
from billet.whatif.measures import balance
from billet.whatif.rules import Rule
from billet.whatif.simulated_fleet import Chooser, SimulatedFleet

ROOM = Resources(128, 512 * 1024, 0, 1000)  # of each host
SHAPES = (Resources(1, 2048, 0, 1), Resources(2, 4096, 0, 1), Resources(4, 8192, 0, 1))
NORMAL = NormalDist()
BEFORE = "before"  # images and microVMs of before the first burst


class BurstSettings(NamedTuple):
    """Parameters of a burst. Times are means of lognormal distributions with this sigma. Each microVM has two images.

    `with_images`: number of hosts that have the images of a burst. Before the first burst each host has booted `warm`
    microVMs from other images. Each burst has its own images, and begins when all boots have ended, after the
    microVMs of the burst before are deleted. Host n has item n (modulo length) of `rooms`, its capacity, of
    `slowness`, the factor of its boot times, and of `taken`, the share of its room that is taken before. From the
    create number `slower_from` on, the factors are those of `slower`. `listed`: whether the agents know which images
    their hosts have.
    """

    hosts: int = 10
    with_images: int = 5
    creates: int = 100
    rate_per_s: float = 200.0
    boot_s: float = 1.0
    pull_s: float = 10.0
    sigma: float = 0.3
    warm: int = 20
    bursts: int = 1
    rooms: tuple[Resources, ...] = (ROOM,)
    slowness: tuple[float, ...] = (1.0,)
    slower_from: int | None = None
    slower: tuple[float, ...] = (3.0,)
    taken: tuple[float, ...] = (0.0,)
    listed: bool = True


class Boot(NamedTuple):
    """The boot of one microVM of a burst: seconds until CREATED, and the forecast of the winning bid, if any."""

    vm: str
    host: str
    took_s: float
    forecast: Forecast | None


@dataclass(slots=True)
class BootHost:
    """One host: its boot worker, its images, and its agent's estimates of boot times."""

    id: str
    boot_queue: BootQueue = field(default_factory=BootQueue)
    images: set[Image] = field(default_factory=set)
    free_at_s: float = 0.0
    queue: deque[tuple[float, str, tuple[Image, ...]]] = field(default_factory=deque)  # when CREATED, microVM, images

    def accept(self, vm: str, images: tuple[Image, ...], now_s: float, busy_s: float) -> float:
        """Queue a microVM that keeps the worker busy for `busy_s`. Returns the time at which it is CREATED."""
        self.boot_queue.forecast(vm, images, now_s)
        self.boot_queue.waits(vm, images)
        self.boot_queue.looked([], now_s)
        self.images.update(images)
        self.free_at_s = max(self.free_at_s, now_s) + busy_s
        self.queue.append((self.free_at_s, vm, images))
        return self.free_at_s

    def look(self, now_s: float) -> None:
        """Let the agent see all boots that have ended by now."""
        while self.queue and self.queue[0][0] <= now_s:
            at_s, vm, images = self.queue.popleft()
            self.boot_queue.waits_no_longer(vm)
            self.boot_queue.looked([(vm, images)], at_s)


class Bursts:
    """Bursts on one fleet. Boot times depend on `seed` and the microVM's number: the same for all rules."""

    def __init__(self, setting: BurstSettings, seed: int) -> None:
        self.setting = setting
        self.fleet = SimulatedFleet(
            {f"host-{n}": setting.rooms[n % len(setting.rooms)] for n in range(setting.hosts)}
        )
        self._seed = seed
        self._hosts = [BootHost(host_id) for host_id in self.fleet.ids]
        self._slowness = setting.slowness
        self._fill()
        self._wanted = _images(BEFORE)
        for host in self._hosts:
            for n in range(setting.warm):
                host.look(host.free_at_s)
                host.accept(f"{n}", self._wanted, host.free_at_s, self._busy_s(host, f"{host.id} {n}"))

    def _fill(self) -> None:
        for n, host_id in enumerate(self.fleet.ids):
            if share := self.setting.taken[n % len(self.setting.taken)]:
                part = Resources(*(int(share * amount) for amount in self.fleet.capacities[n]))
                self.fleet.place(f"{BEFORE} {host_id}", part, host_id)

    def play(self, choose: BurstRule) -> list[Boot]:
        """Play all bursts with one rule. Creates that find no room are left out."""
        boots = self._burst(0, choose)
        for number in range(1, self.setting.bursts):
            for vm in list(self.fleet.state.placements):
                if not vm.startswith(BEFORE):
                    self.fleet.remove(vm)
            boots += self._burst(number, choose)
        return boots

    def _burst(self, number: int, choose: BurstRule) -> list[Boot]:
        begun_s = max(host.free_at_s for host in self._hosts) + 1.0
        self._wanted = _images(str(number))
        for n, host in enumerate(self._hosts):
            if (n + number) % self.setting.hosts < self.setting.with_images:
                host.images.update(self._wanted)
            host.look(begun_s)
            host.boot_queue.unpacked(frozenset(host.images) if self.setting.listed else None)
        return self._stream(str(number), begun_s, self.setting.rate_per_s, choose)

    def calm(self, choose: BurstRule) -> list[Boot]:
        """As many creates as in a burst, one in the time of a boot, once the burst's boots have ended."""
        begun_s = max(host.free_at_s for host in self._hosts) + 1.0
        return self._stream("calm", begun_s, 1.0 / self.setting.boot_s, choose)

    def _stream(self, name: str, begun_s: float, rate_per_s: float, choose: BurstRule) -> list[Boot]:
        boots = []
        for n in range(self.setting.creates):
            now_s = begun_s + n / rate_per_s
            if n == self.setting.slower_from:
                self._slowness = self.setting.slower
            for host in self._hosts:
                host.look(now_s)
            if boot := self._create(f"{name}.{n}", now_s, choose):
                boots.append(boot)
        return boots

    def _create(self, which: str, now_s: float, choose: BurstRule) -> Boot | None:
        vm = f"machine-{int(self._share('name', which) * 36**5):x}-{which}"  # with a suffix, as controllers do
        demand = SHAPES[int(self._share("shape", which) * len(SHAPES))]
        chosen = choose(self, vm, demand, now_s)
        if chosen is None:
            return None
        host_id, forecast = chosen
        self.fleet.place(vm, demand, host_id)
        host = self._hosts[self.fleet.number[host_id]]
        at_s = host.accept(vm, self._wanted, now_s, self._busy_s(host, which))
        return Boot(vm, host_id, at_s - now_s, forecast)

    # For rules.

    def bids(self, vm: str, demand: Resources, now_s: float, weights: Weights) -> tuple[Auction, list[Bid]]:
        """The auction for a microVM, and the bids of all hosts with room."""
        auction = Auction(vm, "", vm, demand, images=self._wanted)
        answers = []
        for n, host in enumerate(self._hosts):
            facts, known = host.boot_queue.facts(None, now_s), self.fleet.state.hosts[host.id]
            missing, coming = host.boot_queue.missing(self._wanted), host.boot_queue.coming(self._wanted)
            answer = bid(known, self.fleet.taken(n), facts, auction, weights, missing, coming)
            if isinstance(answer, Bid):
                answers.append(answer)
        return auction, answers

    def view(self, host_id: str) -> HostView:
        """A host as the ledger sees it."""
        n = self.fleet.number[host_id]
        return HostView(self.fleet.capacities[n], self.fleet.taken(n))

    def cov(self) -> float:
        """Imbalance: the coefficient of variation of the hosts' dominant shares."""
        fleet = self.fleet
        return balance(fleet.capacities, [fleet.taken(n) for n in range(len(fleet.ids))]).cov

    def truly_done_s(self, host_id: str, which: str, now_s: float) -> float:
        """When a microVM would be CREATED on a host. Unknown in reality: for the lower bound by an oracle."""
        host = self._hosts[self.fleet.number[host_id]]
        return max(host.free_at_s, now_s) + self._busy_s(host, which)

    # Random times, by hash.

    def _busy_s(self, host: BootHost, which: str) -> float:
        """Seconds that a microVM keeps a host's worker busy."""
        pulls = [f"{host.id} {image}" for image in self._wanted if image not in host.images]
        pulling_s = sum(self._drawn(self.setting.pull_s, "pull", pull) for pull in pulls)
        slowness = self._slowness[self.fleet.number[host.id] % len(self._slowness)]
        return pulling_s + slowness * self._drawn(self.setting.boot_s, "boot", which)

    def _drawn(self, mean_s: float, *what: str) -> float:
        sigma = self.setting.sigma
        return mean_s * exp(sigma * NORMAL.inv_cdf(self._share(*what)) - sigma * sigma / 2)

    def _share(self, *what: str) -> float:
        """A uniform number above 0 and below 1, by hash of the seed and the names."""
        digest = blake2b("\0".join((str(self._seed), *what)).encode(), digest_size=6).digest()
        return (int.from_bytes(digest) + 0.5) / 2**48


# bursts, microVM, demand, now (s) -> host and forecast; None refuses
BurstRule = Callable[[Bursts, str, Resources, float], tuple[str, Forecast | None] | None]


def _images(name: str) -> tuple[Image, ...]:
    return Image(f"kernel {name}", kernel=True), Image(f"root {name}")


def by_billet(weights: Weights) -> BurstRule:
    """Billet's rule under these weights."""

    def choose(bursts: Bursts, vm: str, demand: Resources, now_s: float) -> tuple[str, Forecast] | None:
        auction, bids = bursts.bids(vm, demand, now_s, weights)
        views = {one.host: bursts.view(one.host) for one in bids}
        won = award(auction, bids, views, weights)
        if not isinstance(won, Award):
            return None
        winner = next(one for one in bids if one.host == won.host)
        return won.host, forecast_of(winner, auction, views[won.host])

    return choose


def by_rule(rule: Rule) -> BurstRule:
    """Another rule, which ignores boots. For one run only: some rules have state."""
    chooser: Chooser | None = None

    def choose(bursts: Bursts, vm: str, demand: Resources, now_s: float) -> tuple[str, None] | None:
        nonlocal chooser
        chooser = chooser or rule.start(bursts.fleet)
        host_id = chooser.choose(vm, demand)
        return None if host_id is None else (host_id, None)

    return choose


def by_oracle(bursts: Bursts, vm: str, demand: Resources, now_s: float) -> tuple[str, None] | None:
    """The oracle: the host where it is CREATED first, by a rule that knows all times beforehand."""
    which = vm.rpartition("-")[2]
    able = [host_id for n, host_id in enumerate(bursts.fleet.ids) if bursts.fleet.fits(n, demand)]
    if not able:
        return None
    return min(able, key=lambda host_id: bursts.truly_done_s(host_id, which, now_s)), None


class Waits(NamedTuple):
    """Seconds until CREATED under one rule: means over the runs of each run's p50, p99 and maximum."""

    p50_s: float
    p99_s: float
    last_s: float
    refused: float


def waits(runs: Sequence[Sequence[Boot]], creates: int) -> Waits:
    """Measure runs of one rule, each with this number of creates."""
    rows = []
    for run in runs:
        took_s = sorted(boot.took_s for boot in run)
        rows.append((quantile(took_s, 0.5), quantile(took_s, 0.99), took_s[-1], creates - len(took_s)))
    return Waits(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def quantile(row: Sequence[float], q: float) -> float:
    """The q-quantile of a sorted row (nearest rank)."""
    return row[max(0, ceil(q * len(row)) - 1)]


class Accuracy(NamedTuple):
    """Accuracy of forecasts: the median of |actual / predicted - 1|, the share within the bound (goal: 0.9), and the
    number of boots."""

    error: float
    within: float
    boots: int


def accuracy(boots: Sequence[Boot]) -> Accuracy | None:
    """Compare forecasts with actual times. None if there are no forecasts."""
    pairs = [(boot.took_s, boot.forecast) for boot in boots if boot.forecast]
    predicted = [
        (took, f.created_s, f.bound_s) for took, f in pairs if f.created_s is not None and f.bound_s is not None
    ]
    if not predicted:
        return None
    errors = sorted(abs(took / forecast - 1.0) for took, forecast, _ in predicted)
    return Accuracy(
        quantile(errors, 0.5), sum(took <= bound for took, _, bound in predicted) / len(predicted), len(predicted)
    )
