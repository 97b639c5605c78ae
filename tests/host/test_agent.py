"""The agent beside a fake flintlockd: what it counts, what it refuses, and what it does only once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from billet.adapters.flintlock import GrpcFlintlock
from billet.core.boots.estimator import BootEstimator
from billet.core.model import Auction, Bid, Host, Reason, Refusal, Resources, VmState
from billet.core.pressure import Stalls
from billet.core.report import InventoryUpdate, Report
from billet.fake.faults import Fault, FaultKind
from billet.fake.server import FakeFlintlockd
from billet.fake.settings import FakeConfig
from billet.host.agent import Agent, Measured
from billet.host.flintlockd import CreateOrder
from billet.ports import Created, CreateOptions, Denied, NotTaken, Unknown
from billet.process import SystemClock
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from tests.cluster.clients import create_request, eventually
from tests.leader.test_reconciler import HandClock

ROOM = Resources(8, 16384, 100_000, 10)
SHAPE = Resources(1, 1024, 0, 1)


class RecordingUplink:
    """Records what the agent sends, in order."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.inventories: list[InventoryUpdate] = []

    def report(self, report: Report) -> None:
        self.reports.append(report)

    def inventory(self, inventory: InventoryUpdate) -> None:
        self.inventories.append(inventory)


Pair = tuple[Agent, FakeFlintlockd]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    fake = FakeFlintlockd(
        FakeConfig(grpc_endpoint="127.0.0.1:0", control_endpoint="", boot_mean_s=1e6), die=lambda code: None
    )
    await fake.start()
    daemon = GrpcFlintlock(fake.grpc_address)
    idle = Measured(cpu_share=0.0, memory_used_mib=0, disk_free_mib=0, stalls=Stalls(cpu=0.25))
    agent = Agent(
        Host("h1", ROOM, ROOM), daemon, wire, lambda: idle, SystemClock(), report_interval_s=0.2, instance="this"
    )
    agent.uplink = RecordingUplink()
    assert await agent.refresh()
    yield agent, fake
    await daemon.close()
    await fake.stop()


def order(
    token: str, term: int = 5, demand: Resources = SHAPE, instance: str = "this", **options: bool
) -> CreateOrder:
    return CreateOrder(term, token, create_request(token), demand, 10.0, CreateOptions(instance, **options))


async def test_promise_3_an_order_of_an_older_term_is_refused(pair: Pair) -> None:
    agent, fake = pair
    assert agent.accepts(7)
    outcome = await agent.create(order("01OLD", term=6))
    assert isinstance(outcome, NotTaken)
    assert outcome.refusal.reason is Reason.DECLINED
    assert fake.stats()["creates_accepted"] == 0


async def test_promise_4_a_duplicate_order_is_carried_out_once(pair: Pair) -> None:
    agent, fake = pair
    first, second = await asyncio.gather(agent.create(order("01TWICE")), agent.create(order("01TWICE")))
    assert first == second
    assert isinstance(first, Created)
    assert fake.stats()["creates_accepted"] == 1
    again = await agent.create(order("01TWICE"))
    assert again == first
    assert fake.stats()["creates_accepted"] == 1


async def test_the_token_reaches_the_host_and_never_the_client(pair: Pair) -> None:
    agent, fake = pair
    outcome = await agent.create(order("01TOKEN"))
    assert isinstance(outcome, Created)
    assert wire.TOKEN_KEY in fake.stats()["microvms"][0]["metadata"]
    assert wire.TOKEN_KEY.encode() not in outcome.reply
    assert agent.everything().seen[0].token == "01TOKEN"


async def test_creates_in_hand_are_counted_once_before_and_after(pair: Pair) -> None:
    agent, _ = pair
    creating = asyncio.create_task(agent.create(order("01A")))
    await asyncio.sleep(0)
    assert agent.taken == SHAPE
    await creating
    assert agent.taken == SHAPE
    await agent.refresh()
    assert agent.taken == SHAPE


async def test_an_order_is_refused_when_the_host_has_no_room_any_more(pair: Pair) -> None:
    agent, fake = pair
    outcome = await agent.create(order("01BIG", demand=Resources(9, 1024, 0, 1)))
    assert isinstance(outcome, NotTaken)
    assert outcome.refusal.reason is Reason.NO_VCPU
    assert fake.stats()["creates_accepted"] == 0


async def test_flintlockds_refusal_is_passed_on_unchanged(pair: Pair) -> None:
    agent, _ = pair
    request = rpc.CreateMicroVMRequest.FromString(create_request("vm"))
    request.microvm.vcpu = 65
    bad = CreateOrder(5, "01BAD", request.SerializeToString(), SHAPE, 10.0, CreateOptions(verdict_only=True))
    outcome = await agent.create(bad)
    assert isinstance(outcome, Denied)
    assert "'VCPU' failed on the 'lte' tag" in outcome.text


async def test_a_microvm_that_flintlockd_should_have_refused_is_deleted(pair: Pair) -> None:
    agent, fake = pair
    outcome = await agent.create(order("01FINE", verdict_only=True))
    assert isinstance(outcome, NotTaken)
    assert fake.stats()["creates_accepted"] == 1
    assert set(fake.stats()["by_state"]) <= {"DELETING"}


async def test_without_flintlockd_the_agent_refuses_and_says_so(pair: Pair) -> None:
    agent, fake = pair
    await fake.stop()
    assert not await agent.refresh()
    [answer] = agent.bids([Auction("01A", "ns", "vm", SHAPE)])
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.DAEMON_AWAY
    assert not agent.report().daemon_ok


async def test_a_stopping_agent_refuses_new_microvms(pair: Pair) -> None:
    agent, _ = pair
    await agent.finish(1.0)
    [answer] = agent.bids([Auction("01A", "ns", "vm", SHAPE)])
    assert answer.reason is Reason.STOPPING
    outcome = await agent.create(order("01LATE"))
    assert isinstance(outcome, NotTaken)


async def test_a_microvm_created_on_the_host_is_in_the_next_bid_and_reported_at_once(pair: Pair) -> None:
    agent, fake = pair
    fake.vms.create(create_request("mine"))
    await agent.refresh()
    [answer] = agent.bids([Auction("01A", "ns", "vm", SHAPE)])
    assert isinstance(answer, Bid)
    assert answer.basis == SHAPE
    assert answer.facts.pending == 1
    heard = agent.uplink.inventories[-1]
    assert [row.name for row in heard.seen] == ["mine"]
    assert not heard.full


@pytest.mark.parametrize(
    ("looks", "mean_s"),
    [
        ([(0, 4, 0.0), (1, 3, 2.0)], 2.0),  # one boot took the two seconds
        ([(0, 4, 0.0), (4, 0, 2.0)], 0.5),  # four boots, between two looks
        ([(0, 1, 0.0), (1, 0, 1.0), (0, 0, 50.0), (0, 1, 100.0), (1, 0, 101.0)], 1.0),  # idle time does not count
        ([(3, 0, 10.0)], 0.0),  # booted before the first look: nothing is known
    ],
)
def test_the_mean_boot_time_is_the_busy_time_shared_by_the_boots(
    looks: list[tuple[int, int, float]], mean_s: float
) -> None:
    boots = BootEstimator()
    for booted, pending, now_s in looks:
        boots.looked(booted, 0, pending, now_s)
    assert boots.boot_s == pytest.approx(mean_s)


async def test_promise_4_a_repeated_order_is_carried_out_when_the_host_never_received_it(pair: Pair) -> None:
    """An earlier leader reserved it for this process and died before it sent the order."""
    agent, fake = pair
    outcome = await agent.create(order("01AGAIN", resent=True))
    assert isinstance(outcome, Created)
    assert fake.stats()["creates_accepted"] == 1


async def test_promise_4_an_order_for_another_process_is_looked_up_and_not_carried_out(pair: Pair) -> None:
    """The previous process may have called flintlockd, and the call may still be in flight."""
    agent, fake = pair
    lost = await agent.create(order("01LOST", instance="before", resent=True))
    assert isinstance(lost, Unknown)
    assert fake.stats()["creates_accepted"] == 0
    fake.vms.create(wire.with_token(create_request("01MADE"), "01MADE"))
    made = await agent.create(order("01MADE", instance="before", resent=True))
    assert isinstance(made, Created)
    assert b"billet-token" not in made.reply
    assert fake.stats()["creates_accepted"] == 1


async def test_promise_4_an_order_with_an_unknown_outcome_is_not_carried_out_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, fake = pair
    monkeypatch.setattr("billet.host.flintlockd.LOOKUP_PAUSE_S", 0.01)
    fake.faults.add(Fault(FaultKind.CUT_BEFORE_ACCEPT))
    assert isinstance(await agent.create(order("01TORN")), Unknown)
    assert isinstance(await agent.create(order("01TORN", resent=True)), Unknown)
    assert fake.stats()["creates_accepted"] == 0


async def test_hosts_answer_reads_of_any_term(pair: Pair) -> None:
    """A server may show what runs while no server leads."""
    agent, _ = pair
    assert agent.accepts(7)
    assert (await agent.call(0, wire.LIST, b"", 5.0)).code == 0
    assert (await agent.call(6, wire.DELETE, wire.with_uid("01X"), 5.0)).code == 14


async def test_the_leader_is_told_when_a_create_ends_without_a_microvm(pair: Pair) -> None:
    """Broken on purpose (nothing is sent because no microVM changed): the reservation is held for ever."""
    agent, fake = pair
    fake.faults.add(Fault(FaultKind.SLOW, delay_s=0.3))
    nameless = CreateOrder(5, "01NONE", create_request(""), SHAPE, 10.0, CreateOptions("this"))
    creating = asyncio.create_task(agent.create(nameless))
    await asyncio.sleep(0)
    assert agent.everything().creating == ["01NONE"]
    fake.vms.create(create_request("mine"))
    await agent.refresh()
    assert isinstance(await creating, Denied)
    assert agent.uplink.inventories[-1] == InventoryUpdate(False, [], [], [])


async def test_an_idle_overcommitted_host_has_no_pressure() -> None:
    """A memory ratio of 2. Broken on purpose (compared with the promised memory): 0.48 on an empty machine."""
    promised = Resources(8, 32768, 100_000, 10)
    free = {"now": 15_360}

    def measured() -> Measured:
        return Measured(0.0, 1024, 0, memory_free_mib=free["now"])

    daemon = GrpcFlintlock("127.0.0.1:1")
    agent = Agent(
        Host("h1", ROOM, promised), daemon, wire, measured, SystemClock(), report_interval_s=0.0, instance="i"
    )
    assert agent.report().facts.pressure == 0.0
    free["now"] = 1_000  # used, though nothing is placed here
    assert (agent.report().facts.pressure or 0.0) > 0.9
    await daemon.close()


async def test_the_reports_of_many_boots_measure_the_machine_once() -> None:
    """Broken on purpose (each measures): a report costs its host twice as much, and each boot that ends sends one."""
    measured = []
    clock = HandClock()

    def measure() -> Measured:
        measured.append(clock.s)
        return Measured(0.0, 0, 0)

    daemon = GrpcFlintlock("127.0.0.1:1")
    agent = Agent(Host("h1", ROOM, ROOM), daemon, wire, measure, clock, report_interval_s=2.0, instance="i")
    for clock.s in (100.0, 100.5, 101.7, 102.0, 103.7, 104.0):
        agent.report()
    assert measured == [100.0, 102.0, 104.0]
    await daemon.close()


async def test_a_boot_that_begins_on_an_idle_host_is_looked_at_without_waiting_for_a_list() -> None:
    """Broken on purpose (a create does not wake the look): the leader hears of CREATED after a minute."""
    fake = FakeFlintlockd(
        FakeConfig(grpc_endpoint="127.0.0.1:0", control_endpoint="", boot_mean_s=0.0, pull_mean_s=0.0)
    )
    await fake.start()
    daemon, uplink = GrpcFlintlock(fake.grpc_address), RecordingUplink()
    agent = Agent(
        Host("h1", ROOM, ROOM), daemon, wire, lambda: Measured(0.0, 0, 0), SystemClock(), 60.0, instance="this"
    )
    agent.uplink = uplink
    running = asyncio.create_task(agent.run())
    await eventually(lambda: uplink.reports, 30.0)
    assert isinstance(await agent.create(order("01BOOT")), Created)
    await eventually(
        lambda: any(row.state is VmState.CREATED for told in uplink.inventories for row in told.seen), 30.0
    )
    running.cancel()
    await daemon.close()
    await fake.stop()


async def test_promise_4_a_stopping_agent_still_looks_up_an_order_that_it_may_have_carried_out(pair: Pair) -> None:
    """The process before this one may have told flintlockd. "I am stopping" would say: it is not here, ask another.

    Broken on purpose (refuse before looking): the leader boots the microVM a second time, on another host.
    """
    agent, fake = pair
    fake.vms.create(wire.with_token(create_request("01MADE"), "01MADE"))
    await agent.finish(1.0)
    made = await agent.create(order("01MADE", instance="before", resent=True))
    assert isinstance(made, Created)
    unknown = await agent.create(order("01LOST", instance="before", resent=True))
    assert isinstance(unknown, Unknown), "what was told may still be on its way"
    assert fake.stats()["creates_accepted"] == 1
