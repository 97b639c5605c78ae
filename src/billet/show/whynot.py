"""Why a host did not win, in sentences, and beside the winner part by part."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from billet.core.bidding import CAPABILITY_REASONS
from billet.core.model import Constraints, Reason, Refusal, Score
from billet.core.questions.record import AuctionRecord, Called
from billet.core.questions.whynot import Change, What, WhyNot
from billet.show.marks import gib, table

PARTS = {
    "utilisation": "how full it would be",
    "shape": "its shape",
    "pressure": "its pressure",
    "delay": "its boots",
    "preference": "what was wished",
    "correction": "what it forecast wrongly before",
}
FIELDS = [part for part in Score._fields if part != "total"]
SEEN = 0.0005  # what is less shows as +0.000
HEADS = {"utilisation": "FULL AFTER", "delay": "BOOT DELAY"}  # as `billet explain` has them


def told(found: WhyNot, record: AuctionRecord) -> RenderableType:
    """The whole answer."""
    parts: list[RenderableType] = [Text(verdict(found, record))]
    if found.mine and found.winners and found.winner != found.host:
        parts.append(_beside(found.host, found.mine, found.winner, found.winners))
    parts += [Text(line) for line in would(found, record)]
    return Group(*parts)


def verdict(found: WhyNot, record: AuctionRecord) -> str:
    """What happened."""
    vm = f"{record.auction.namespace}/{record.auction.name}"
    if found.winner == found.host:
        return f"{found.host} won {vm}."
    if not found.asked:
        return f"{found.host} was not asked for {vm}: {not_asked(found.host, record)}."
    if found.refusal:
        detail = f" ({found.refusal.detail})" if found.refusal.detail else ""
        return f"{found.host} did not get {vm}: {_reason(found.refusal)}{detail}."
    assert found.mine is not None
    assert found.winners is not None
    if found.mine.total == found.winners.total:
        return f"{found.host} and {found.winner} asked the same for {vm}, {found.mine.total:.3f}; the draw decided."
    asked, winners = f"{found.mine.total:.3f}", f"{found.winners.total:.3f}"
    return f"{found.host} asked {asked} for {vm}, and {found.winner} {winners}{_by(found)}."


def _reason(refusal: Refusal) -> str:
    text = refusal.reason.value
    if text.startswith("its"):
        return text
    return f"it had {text}" if text.startswith("no") else f"it {text}"


def _by(found: WhyNot) -> str:
    """By which parts of the score it lost, the worst first."""
    assert found.mine is not None
    assert found.winners is not None
    lost = {part: getattr(found.mine, part) - getattr(found.winners, part) for part in FIELDS}
    worst = sorted((part for part in lost if lost[part] >= SEEN), key=lambda part: -lost[part])
    said = ", ".join(f"{PARTS.get(part, part)} (+{lost[part]:.3f})" for part in worst)
    return f"; it lost by {said}" if said else ""


def not_asked(host_id: str, record: AuctionRecord) -> str:
    """Why it was left out, as far as the record can say."""
    called: Called = record.called
    if host_id in called.absent:
        return "it was not connected to the leader, or not yet in line with it"
    if called.most:
        full = _fullest(record)
        return (
            f"of {called.fleet} hosts the leader asks the {called.most} that suit the policy best and can have it,"
            f" and a few drawn (--ask-hosts, --ask-random); those asked were up to {full:.0%} full"
        )
    return "the fleet had no such host then" if called.fleet else "the record does not say why"


def _fullest(record: AuctionRecord) -> float:
    views = [view for attempt in record.attempts for view in attempt.ledger.values()]
    return max((max(t / a for t, a in zip(v.taken, v.allocatable, strict=True) if a) for v in views), default=0.0)


def would(found: WhyNot, record: AuctionRecord) -> Iterator[str]:
    """What would have made it win, or why nothing would."""
    if found.winner == found.host or not found.asked:
        return
    if found.excluded_by:
        constraint = _preference(found.excluded_by, record.auction.constraints)
        yield f"It could not have won: the constraint {constraint} excludes it."
        return
    if found.too_small:
        amounts = " and ".join(_amount(what, most) for what, most in found.too_small)
        yield f"However empty, it could not have won: the whole host has {amounts}."
        return
    if found.refusal and found.refusal.reason in CAPABILITY_REASONS:
        if not found.providers:
            yield f"No host could have won: the request itself names the provider {record.auction.provider}."
            return
        yield f"A host whose provider is {' or '.join(found.providers)} would have been asked for its bid."
    if not found.ways:
        also = " more" if found.providers else ""
        yield f"No single change{also} to it would have made it win."
        return
    first, *others = found.ways
    yield f"It would have won {said(first)}."
    if others:
        yield "Or " + ", or ".join(said(way) for way in others) + "."
    if not found.facts_known:
        yield "(A refusal does not tell pressure and boot queue; none was counted.)"


def _preference(reason: Reason, constraints: Constraints) -> str:
    match reason:
        case Reason.ZONE:
            return f"for zone {constraints.zone}"
        case Reason.HOST:
            return f"for host {constraints.host}"
        case Reason.LABEL:
            return "for " + " and ".join(f"{label}={value}" for label, value in constraints.require)
        case Reason.AVOIDED:
            return "to avoid " + " and ".join(f"{label}={value}" for label, value in constraints.avoid)
        case _:
            return f"to be apart from others of group {constraints.apart}"


def _amount(what: What, amount: int) -> str:
    kind = what.value.removesuffix(" taken")
    if what in (What.MEMORY, What.DISK):
        return f"{_amounts(amount)[0]} {kind.removeprefix('MiB ')}"
    return f"{amount} {kind}"


def said(way: tuple[Change, ...]) -> str:
    """The changes of one way, all of which it needs."""
    return " and ".join(_change(change) for change in way)


def _change(change: Change) -> str:
    by, unit = change.was - change.to, change.what.value
    match change.what:
        case What.CORDONED | What.FENCED:
            return f"were it not {unit}"
        case What.REFUSING:
            return "had it bid"
        case What.PROVIDER:
            return "with such a provider"
        case What.QUEUE:
            return f"with its boot queue at {change.to:.0f} instead of {change.was:.0f}"
        case What.IMAGES:
            return f"with {change.to:.0f} images to pull instead of {change.was:.0f}"
        case What.PRESSURE:
            return f"with its pressure at {change.to:.0%} instead of {change.was:.0%}"
        case What.LIKE:
            return f"with {by:.0f} microVM{'' if by == 1 else 's'} of this size less on it"
        case What.MEMORY | What.DISK:
            kind = unit.removeprefix("MiB ")
            less, left, had = _amounts(by, change.to, change.was)
            return f"with {less} less {kind} ({left} instead of {had})"
        case _:
            kind = unit.removesuffix(" taken")
            return f"with {by:.0f} {kind} less taken ({change.to:.0f} instead of {change.was:.0f})"


def _amounts(*mib: float) -> list[str]:
    """All in one unit."""
    if any(amount % 1024 for amount in mib):
        return [f"{amount:.0f} MiB" for amount in mib]
    return [f"{gib(amount)} GiB" for amount in mib]


def _beside(host: str, mine: Score, winner: str, winners: Score) -> RenderableType:
    made = table("HOST", ">SCORE", *(f">{HEADS.get(part, part.upper())}" for part in FIELDS))
    for name, score, style in ((winner, winners, "bold"), (host, mine, "")):
        made.add_row(name, f"{score.total:.3f}", *(f"{getattr(score, part):.3f}" for part in FIELDS), style=style)
    return made
