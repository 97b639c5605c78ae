"""What a caller sees of an answer: the microVMs, placements and auctions of its namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache, partial

import msgspec

from billet.api import fleet_service as fleet
from billet.core.access import Credential, Verb, covers, may
from billet.core.errors import PermissionDenied, StoreCorrupt
from billet.core.events import EventType
from billet.ports import Answer
from billet.wire import flintlock as wire
from billet.wire.auction_records import decode
from billet.wire.pb import fleet_pb2 as pb

FAILED = "creates or boots have failed on it; whoever may see all namespaces is told more"
REFUSED = "whoever may see all namespaces is told why"
LARGE_BYTES = 65_536  # above that the work is done in a thread, as it would block all auctions


async def visible(who: Credential, method: str, answer: Answer) -> Answer:
    """The part of an answer that a caller may see. Raises PermissionDenied for a single microVM that it may not."""
    cut = CUTS.get(method)
    if cut is None:
        return answer
    if len(answer.payload) > LARGE_BYTES:
        return answer._replace(payload=await asyncio.to_thread(cut, who, answer.payload))
    return answer._replace(payload=cut(who, answer.payload))


def _microvm(who: Credential, payload: bytes) -> bytes:
    if refusal := may(who, Verb.READ, wire.read_created(payload).namespace):
        raise PermissionDenied(refusal)
    return payload


def _sees(who: Credential) -> Callable[[str], bool]:
    """Whether a caller has rights in a namespace: many rows have the same one, and a caller may have 64 patterns."""
    return cache(partial(covers, who))


def _microvms(who: Credential, payload: bytes) -> bytes:
    rows, sees = zip(wire.split_list(payload), wire.read_list(payload), strict=True), _sees(who)
    return b"".join(message for message, row in rows if sees(row.namespace))


def _hosts(who: Credential, payload: bytes) -> bytes:
    """The hosts, without texts of failures and refusals: these may name microVMs of others."""
    reply = pb.HostsReply.FromString(payload)
    for host in reply.hosts:
        if host.trouble:
            host.trouble = FAILED
    for agent in reply.agents:
        agent.why = REFUSED
    return reply.SerializeToString()


def _outcomes(who: Credential, payload: bytes) -> bytes:
    """The outcomes of the hosts' bids, without the uids: they do not say in whose namespace the microVM is."""
    found = pb.AccuracyReply.FromString(payload)
    shown = [msgspec.json.encode({**msgspec.json.decode(one), "uid": ""}) for one in found.outcome_json]
    return pb.AccuracyReply(outcome_json=shown, server=found.server).SerializeToString()


def _placements(who: Credential, payload: bytes) -> bytes:
    found, sees = pb.PlacementsReply.FromString(payload).placements, _sees(who)
    return pb.PlacementsReply(placements=[p for p in found if sees(p.namespace)]).SerializeToString()


class _Auction(msgspec.Struct):
    namespace: str


class _Record(msgspec.Struct):
    """The part of an auction's readable record that says whose it is."""

    auction: _Auction


def _explained(who: Credential, payload: bytes) -> bytes:
    found = pb.ExplainReply.FromString(payload).record_json
    kept = [one for one in found if covers(who, msgspec.json.decode(one, type=_Record).auction.namespace)]
    return pb.ExplainReply(record_json=kept).SerializeToString()


def _records(who: Credential, payload: bytes) -> bytes:
    """Auction records; of the ends of microVMs, which do not say whose they are, none."""
    reply = pb.RecordsReply.FromString(payload)
    kept = [one for one in reply.record if _is_visible(who, one)]
    del reply.record[:]
    reply.record.extend(kept)
    return reply.SerializeToString()


def _is_visible(who: Credential, record: bytes) -> bool:
    try:
        return covers(who, decode(record).auction.namespace)
    except StoreCorrupt:  # the end of a microVM, or what nobody can read
        return False


class _Event(msgspec.Struct):
    """The part of an event that says whose it is, if it is about a microVM."""

    type: str
    namespace: str = ""
    microvm: str = ""


def _events(who: Credential, payload: bytes) -> bytes:
    """The events of the fleet, and those of the microVMs in a caller's namespaces."""
    reply, sees = pb.EventsReply.FromString(payload), _sees(who)
    kept = []
    for one in reply.event_json:
        event = msgspec.json.decode(one, type=_Event)
        if event.type == EventType.HOST_SUSPECT:
            kept.append(msgspec.json.encode({**msgspec.json.decode(one), "text": FAILED}))
        elif not event.microvm or sees(event.namespace):
            kept.append(one)
    del reply.event_json[:]
    reply.event_json.extend(kept)
    return reply.SerializeToString()


CUTS: dict[str, Callable[[Credential, bytes], bytes]] = {
    wire.GET: _microvm,
    wire.LIST: _microvms,
    fleet.HOSTS: _hosts,
    fleet.ACCURACY: _outcomes,
    fleet.PLACEMENTS: _placements,
    fleet.EXPLAIN: _explained,
    fleet.RECORDS: _records,
    fleet.EVENTS: _events,
}
