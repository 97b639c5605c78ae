"""Large replies and metrics are computed in a thread, so that they do not block auctions."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace
from typing import cast

import pytest
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.routing import Route

from billet.api import fleet_service as fleet
from billet.api.http import http_app
from billet.api.leader_proxy import LeaderProxy
from billet.api.metrics import exposition
from billet.api.recorded import NoRecordedAuctions
from billet.core.accuracy import Outcome
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.core.errors import InvalidRequest
from billet.core.model import Forecast, Host, Resources
from billet.core.state import State
from billet.leader.accuracy import AccuracyTracker
from billet.leader.health import HealthTracker
from billet.leader.leadership import Leadership
from billet.ports import HostsListener
from billet.process import SystemClock
from billet.wire.auction_records import decode_outcomes, encode_outcome
from billet.wire.pb import fleet_pb2
from tests.api.callers import callers

ROOM = Resources(16, 16384, 0, 99)
OUTCOMES = [Outcome("h1", f"u{n}", float(n), Forecast(0.3, 1.5, 2.2), 1.5, 0.3, 0.3) for n in range(20)]


@pytest.fixture
def leadership() -> Leadership:
    outcomes = {"h1": deque(OUTCOMES), "h2": deque([OUTCOMES[0]._replace(host="h2")])}
    tracker = AccuracyTracker(State(), SystemClock(), cast("HostsListener", None), lambda outcome: None)
    tracker.outcomes.update(outcomes)
    return cast("Leadership", SimpleNamespace(accuracy=tracker, slots=None))


async def test_the_accuracy_reply_is_encoded_in_a_thread(
    leadership: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted fault (encode on the event loop): the only thread is this one."""
    threads: set[int] = set()

    def noted(outcome: Outcome) -> bytes:
        threads.add(threading.get_ident())
        return encode_outcome(outcome)

    monkeypatch.setattr(fleet, "encode_outcome", noted)
    accuracy = fleet.fleet_methods(leadership, NoRecordedAuctions(), "s1")[fleet.ACCURACY]
    answer = await accuracy(fleet_pb2.AccuracyRequest(host="h1").SerializeToString(), 1.0, {})
    reply = fleet_pb2.AccuracyReply.FromString(answer.payload)
    assert (decode_outcomes(reply.outcome_json), reply.server) == (OUTCOMES, "s1")
    assert threads
    assert threading.get_ident() not in threads


def test_the_corrections_of_a_hosts_bids_are_shown() -> None:
    """Planted fault (leave them out): both are 0."""
    wrong, right = Host("h1", ROOM, ROOM), Host("h2", ROOM, ROOM)
    known = {"h1": Discount(1.5, 0.25)}
    accuracy = SimpleNamespace(
        discounted=lambda views: {h: view._replace(discount=known.get(h, NO_DISCOUNT)) for h, view in views.items()}
    )
    seen = SimpleNamespace(
        ledger=SimpleNamespace(state=State()), reconciler=SimpleNamespace(seen={}), accuracy=accuracy,
        health=HealthTracker(State(), SystemClock(), 0.25), hosts=SimpleNamespace(certificate_ends_s=lambda _: 0.0),
    )  # fmt: skip
    views = [fleet.host_view(cast("Leadership", seen), host) for host in (wrong, right)]
    assert [(view.delay_correction, view.utilisation_correction) for view in views] == [(1.5, 0.25), (0.0, 0.0)]


class Kept(NoRecordedAuctions):
    """Records that note the thread of each read."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def find(self, name: str) -> list[bytes]:
        self.threads.append(threading.get_ident())
        return []

    def page(self, after: int, limit: int, gone: bool = False) -> tuple[list[bytes], int]:
        self.threads.append(threading.get_ident())
        return [b"one"], 0


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (fleet.EXPLAIN, fleet_pb2.ExplainRequest(key="web")),
        (fleet.RECORDS, fleet_pb2.RecordsRequest(key="web")),
        (fleet.RECORDS, fleet_pb2.RecordsRequest(after=0)),
    ],
)
async def test_records_are_read_in_a_thread(leadership: Leadership, method: str, request_: Message) -> None:
    """Planted fault (read on the event loop): the only thread is this one."""
    kept = Kept()
    await fleet.fleet_methods(leadership, kept, "s1")[method](request_.SerializeToString(), 1.0, {})
    assert len(kept.threads) == 1
    assert threading.get_ident() not in kept.threads


async def test_an_invalid_request_is_the_callers_error(leadership: Leadership) -> None:
    for name, method in fleet.fleet_methods(leadership, NoRecordedAuctions(), "s1").items():
        if name not in (fleet.HOSTS, fleet.STATUS):  # which do not parse their requests
            with pytest.raises(InvalidRequest, match="not valid protobuf"):
                await method(b"\xff\xff\xff", 1.0, {})


async def test_metrics_are_computed_in_a_thread(leadership: Leadership) -> None:
    """Planted fault (compute on the event loop): the only thread is this one."""
    threads: set[int] = set()

    def noted() -> bytes:
        threads.add(threading.get_ident())
        return exposition(leadership)

    app = http_app(cast("LeaderProxy", None), callers(), noted)
    metrics = next(route for route in app.routes if isinstance(route, Route) and route.path == "/metrics")
    page = bytes((await metrics.endpoint(Request({"type": "http", "headers": []}))).body).decode()
    assert 'billet_bid_outcomes{host="h1"} 20.0' in page
    assert 'billet_bid_outcomes{host="h2"} 1.0' in page
    assert threads
    assert threading.get_ident() not in threads
