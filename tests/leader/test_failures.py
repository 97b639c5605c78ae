"""A create that fails by a host's own fault goes to the next-best host: three hosts at most, nothing stays behind."""

from __future__ import annotations

import pytest

from billet.core.errors import Code, HostVerdict, says_not_found
from billet.core.model import Auction, Host, Placement, PlacementState, Reason
from billet.core.state import PutHost, PutPlacement
from billet.leader.jobs import FAILED_HOSTS
from billet.leader.ledger import Ledger
from billet.ports import Created, CreateOptions, Denied, Failed, Outcome
from tests.leader.test_auctioneer import ROOM, SHAPE, Hosts, auctioneer, bids, create, ledger  # noqa: F401

FAULT = "creating microvm: checking to see if spec exists: connection refused"


class FailingHosts(Hosts):
    """Hosts that bid at every call. The first `fail` orders fail, each with a text of its own."""

    def __init__(self, fail: int, text: str = FAULT) -> None:
        super().__init__(*[bids] * 9)
        self._fail, self._text = fail, text
        self.options: list[CreateOptions] = []

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        self.orders.append(host_id)
        self.options.append(options)
        if len(self.orders) <= self._fail:
            return Failed(Code.UNKNOWN, f"{self._text} {len(self.orders)}")
        return Created(f"U-{auction.id}", b"reply")


async def test_a_failed_create_goes_to_the_next_best_host(ledger: Ledger) -> None:  # noqa: F811
    """Before: the client got the first host's error, and 24 of 30 creates went to the one broken host of three."""
    hosts = FailingHosts(2)
    maker, recorders = auctioneer(ledger, hosts)
    assert await create(maker, "vm") == b"reply"
    assert sorted(hosts.orders) == ["h0", "h1", "h2"]
    assert len(hosts.called) == 1, "the bids are still there"
    assert [p.host for p in ledger.state.placements.values()] == [hosts.orders[2]]
    last = recorders[0].record.attempts[-1]
    assert {no.host: no.reason for no in last.refusals} == dict.fromkeys(hosts.orders[:2], Reason.FAULT)


async def test_three_hosts_are_tried_and_the_last_ones_error_is_reported(ledger: Ledger) -> None:  # noqa: F811
    await ledger.finish([PutHost(Host(name, ROOM, ROOM)) for name in ("h3", "h4")])
    hosts = FailingHosts(9)
    maker, recorders = auctioneer(ledger, hosts)
    with pytest.raises(HostVerdict, match=f"{FAULT} 3"):
        await create(maker, "vm")
    assert len(hosts.orders) == len(set(hosts.orders)) == FAILED_HOSTS
    assert ledger.state.placements == {}
    assert recorders[0].record.outcome == "denied"


async def test_a_small_fleet_reports_its_last_error_once_no_host_is_left(ledger: Ledger) -> None:  # noqa: F811
    await ledger.finish([PutPlacement(Placement("x", "", "", ROOM, "h0", PlacementState.STARTED, uid="x"))])
    hosts = FailingHosts(9)
    maker, _ = auctioneer(ledger, hosts)
    with pytest.raises(HostVerdict, match=f"{FAULT} 2"):
        await create(maker, "vm")
    assert sorted(hosts.orders) == ["h1", "h2"]


async def test_a_host_that_failed_a_resent_create_is_not_asked_again(ledger: Ledger) -> None:  # noqa: F811
    await ledger.finish([PutPlacement(Placement("vm", "ns", "vm", SHAPE, "h1", PlacementState.RESERVED))])
    hosts = FailingHosts(1)
    maker, _ = auctioneer(ledger, hosts)
    assert await create(maker, "vm") == b"reply"
    assert hosts.orders[0] == "h1"
    assert hosts.orders[1] in ("h0", "h2")
    assert hosts.called == [["h0", "h2"]]
    assert [options.resent for options in hosts.options] == [True, False]


@pytest.mark.parametrize("kind", [Failed, Denied])
async def test_a_failed_create_never_says_that_a_microvm_is_gone(
    ledger: Ledger,  # noqa: F811
    kind: type[Failed | Denied],
) -> None:
    class Lost(Hosts):
        async def create(self, *_: object) -> Outcome:
            return kind(Code.UNKNOWN, 'creating microvm: saving microvm spec: getting lease: lease "a": not found')

    maker, _ = auctioneer(ledger, Lost(bids))
    with pytest.raises(HostVerdict) as raised:
        await create(maker, "vm")
    assert not says_not_found(raised.value.text)
    assert raised.value.text.endswith('lease "a": missing')
