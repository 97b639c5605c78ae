"""Convert calls for bids, and bids, to and from the link's protobuf messages: one column per field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TypeVar

from billet.core.model import (
    FORMULA,
    NO_CONSTRAINTS,
    Auction,
    Bid,
    Constraints,
    Reason,
    Refusal,
    Resources,
    Score,
)
from billet.link.bounds import MOST, are_valid
from billet.link.messages import (
    get_facts,
    get_images,
    get_refusal,
    get_resources,
    put_facts,
    put_images,
    put_refusal,
    put_resources,
)
from billet.wire.pb import link_pb2 as pb

T = TypeVar("T")
NO_SENSE = "its bid contains invalid numbers"


def put_call(number: int, lots: Iterable[tuple[int, Auction]]) -> pb.Call:
    """A call for bids on these lots, each an auction with its number in the round."""
    call = pb.Call(round=number)
    for lot, auction in lots:
        call.lot.append(lot)
        call.vcpu.append(auction.demand.vcpu)
        call.memory_mib.append(auction.demand.memory_mib)
        call.disk_mib.append(auction.demand.disk_mib)
        call.provider.append(auction.provider)
        call.needs_macvtap.append(auction.needs_macvtap)
        call.needs_virtiofs.append(auction.needs_virtiofs)
        call.policy.append(auction.constraints.policy)
        call.images.append(put_images(auction.images))
    return call


def get_call(call: pb.Call) -> list[tuple[int, Auction]]:
    """The lots of a call. Hosts learn what they need to bid, but not the microVM's name or namespace.

    Of constraints and preferences they need only the policy; the leader evaluates the others in its ledger.
    """
    columns = zip(
        call.lot,
        call.vcpu,
        call.memory_mib,
        call.disk_mib,
        call.provider,
        call.needs_macvtap,
        call.needs_virtiofs,
        _later(call.policy, "", call.lot),
        (get_images(images) for images in _later(call.images, pb.Images(), call.lot)),
        strict=True,
    )
    return [
        (
            lot,
            Auction(
                "", "", "", Resources(cpu, mib, disk, 1), provider, macvtap, virtiofs,
                constraints=_constraints(policy), images=images,
            ),
        )
        for lot, cpu, mib, disk, provider, macvtap, virtiofs, policy, images in columns
    ]  # fmt: skip


def _later(column: Sequence[T], default: T, lots: Sequence[int]) -> Sequence[T]:
    """A column that older versions do not send. Servers and agents may be upgraded in any order."""
    return column or [default] * len(lots)


def _constraints(policy: str) -> Constraints:
    return Constraints(policy=policy) if policy else NO_CONSTRAINTS


def put_bids(number: int, answers: Sequence[tuple[int, Bid | Refusal]]) -> pb.Bids:
    """One host's answers to a round. All its bids have the same basis, facts and pressure."""
    message = pb.Bids(round=number, formula=FORMULA)
    first = True
    for lot, answer in answers:
        if isinstance(answer, Refusal):
            message.refusals.append(put_refusal(answer, lot))
            continue
        if first:
            first = False
            message.basis.CopyFrom(put_resources(answer.basis))
            message.facts.CopyFrom(put_facts(answer.facts))
            message.pressure_part = answer.score.pressure
        message.lot.append(lot)
        message.utilisation.append(answer.score.utilisation)
        message.shape.append(answer.score.shape)
        message.delay.append(answer.score.delay)
        message.missing.append(answer.missing)
        message.coming.append(answer.coming)
    return message


def get_bids(host_id: str, message: pb.Bids) -> list[tuple[int, Bid | Refusal]]:
    """One host's answers, by lot. A bid with a NaN, infinite or negative number becomes a refusal."""
    basis, facts = get_resources(message.basis), get_facts(message.facts)
    pressure, sound = message.pressure_part, are_valid(facts) and min(basis) >= 0 and MOST.covers(basis)
    delays, images = _later(message.delay, 0.0, message.lot), _later(message.missing, 0, message.lot)
    pulled = _later(message.coming, facts.pulls, message.lot)  # older agents: assume that all pulls are of this lot
    columns = zip(message.lot, message.utilisation, message.shape, delays, images, pulled, strict=True)
    answers: list[tuple[int, Bid | Refusal]] = []
    for lot, share, shape, delay, missing, coming in columns:
        score = Score(share + shape + pressure + delay, share, pressure, delay, shape)
        if sound and isfinite(score.total) and min(score) >= 0.0:
            answers.append((lot, Bid(host_id, score, basis, facts, missing, coming, message.formula)))
        else:
            answers.append((lot, Refusal(host_id, Reason.DECLINED, NO_SENSE)))
    answers += [(refusal.lot, get_refusal(host_id, refusal)) for refusal in message.refusals]
    return answers
