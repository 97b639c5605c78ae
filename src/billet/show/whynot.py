"""Renders why a host did not win: in sentences, and as a table of its score beside the winner's."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from billet.core.bidding import CAPABILITY_REASONS
from billet.core.constraints import Crowding
from billet.core.model import Constraints, Reason, Refusal, Score
from billet.core.questions.record import AuctionRecord, Called
from billet.core.questions.whynot import Change, What, WhyNot
from billet.show.marks import gib, table

PARTS = {
    "delay": "boot delay",
    "preference": "preferences",
    "correction": "the correction of its earlier predictions",
    "trouble": "what has failed on it",
    "scarcity": "a label that few hosts have",
}
FIELDS = (
    "utilisation",
    "shape",
    "pressure",
    "delay",
    "preference",
    "correction",
    "trouble",
    "scarcity",
)  # in the order of `billet explain`
VISIBLE = 0.0005  # smaller differences would print as +0.000
HEADINGS = {"utilisation": "FULL AFTER", "delay": "BOOT DELAY"}  # the same as in `billet explain`
KINDS = {What.VCPU: "vCPU", What.MEMORY: "memory", What.DISK: "disk", What.SLOTS: "microVM slots"}


def why_not_report(found: WhyNot, record: AuctionRecord) -> RenderableType:
    """The output of `billet explain --why-not`."""
    parts: list[RenderableType] = [Text(verdict(found, record))]
    if found.mine and found.winners and found.winner != found.host:
        parts.append(_score_table(found.host, found.mine, found.winner, found.winners))
    parts += [Text(line) for line in remedies(found, record)]
    return Group(*parts)


def verdict(found: WhyNot, record: AuctionRecord) -> str:
    """What happened, in one sentence."""
    vm = f"{record.auction.namespace}/{record.auction.name}"
    if found.winner == found.host:
        return f"{found.host} won {vm}."
    if not found.asked:
        return f"{found.host} took no part in the auction of {vm}: {not_asked(found.host, record)}."
    if found.refusal:
        detail = f" ({found.refusal.detail})" if found.refusal.detail else ""
        return f"{found.host} did not get {vm}: {_reason(found.refusal)}{detail}."
    assert found.mine is not None
    assert found.winners is not None
    if found.crowds[0] != found.crowds[1]:
        mine, winners = map(_members, found.crowds)
        return f"{found.host} did not get {vm}, which is to be spread: it has {mine}, and {found.winner} {winners}."
    if found.mine.total == found.winners.total:
        return f"{found.host} and {found.winner} both bid {found.mine.total:.3f} for {vm}; a draw decided."
    mine, winners = f"{found.mine.total:.3f}", f"{found.winners.total:.3f}"
    return f"{found.host} bid {mine} for {vm}, and {found.winner} bid {winners}{_difference(found)}."


def _members(crowding: Crowding) -> str:
    return f"{crowding.zone} of the group in its zone and {crowding.host} on it"


def _reason(refusal: Refusal) -> str:
    text = refusal.reason.value
    if text.startswith("its"):
        return text
    return f"it had {text}" if text.startswith("no") else f"it {text}"


def _difference(found: WhyNot) -> str:
    """The parts of the score in which it was worse, largest difference first."""
    assert found.mine is not None
    assert found.winners is not None
    lost = {part: getattr(found.mine, part) - getattr(found.winners, part) for part in FIELDS}
    worst = sorted((part for part in lost if lost[part] >= VISIBLE), key=lambda part: -lost[part])
    parts = ", ".join(f"{PARTS.get(part, part)} (+{lost[part]:.3f})" for part in worst)
    return f"; it lost on {parts}" if parts else ""


def not_asked(host_id: str, record: AuctionRecord) -> str:
    """Why the host was not asked, if the record shows it."""
    called: Called = record.called
    if host_id in called.absent:
        return "it was not connected to the leader, not yet synchronised with it, or had said nothing lately"
    if called.most:
        full = _fullest(record)
        return (
            f"of {called.fleet} hosts the leader compares the {called.most} that suit best by their last reports and"
            f" have room, and with --call-for-bids a few drawn ones; the hosts in it were up to {full:.0%} full"
        )
    return (
        "the fleet had no host of this name at that time, or it was not asked"
        if called.fleet
        else "the record does not say why"
    )


def _fullest(record: AuctionRecord) -> float:
    views = [view for attempt in record.attempts for view in attempt.ledger.values()]
    return max((max(t / a for t, a in zip(v.taken, v.allocatable, strict=True) if a) for v in views), default=0.0)


def remedies(found: WhyNot, record: AuctionRecord) -> Iterator[str]:
    """Sentences: which change would have made it win, or why none would."""
    if found.winner == found.host or not found.asked:
        return
    if found.excluded_by:
        constraint = _constraint(found.excluded_by, record.auction.constraints)
        yield f"It could not have won: the constraint `{constraint}` excludes it."
        return
    if found.too_small:
        amounts = " and ".join(_amount(what, most) for what, most in found.too_small)
        yield f"It could not have won even when empty: the whole host has {amounts}."
        return
    if found.refusal and found.refusal.reason in CAPABILITY_REASONS:
        if not found.providers:
            yield f"No host could have won: the request names the provider {record.auction.provider}."
            return
        yield f"A host whose provider is {' or '.join(found.providers)} could have bid."
    if not found.ways:
        further = "further " if found.providers else ""
        yield f"No single {further}change to it would have made it win."
        return
    first, *others = found.ways
    yield f"It would have won {_all_of(first)}."
    if others:
        yield "Or " + ", or ".join(_all_of(way) for way in others) + "."
    if not found.facts_known:
        yield "(A refusal carries no pressure and boot queue; both were counted as 0.)"


def _constraint(reason: Reason, constraints: Constraints) -> str:
    match reason:
        case Reason.ZONE:
            return f"zone {constraints.zone}"
        case Reason.HOST:
            return f"host {constraints.host}"
        case Reason.LABEL:
            return "require " + " and ".join(f"{label}={value}" for label, value in constraints.require)
        case Reason.AVOIDED:
            return "avoid " + " and ".join(f"{label}={value}" for label, value in constraints.avoid)
        case _:
            return f"apart {constraints.apart}"


def _amount(what: What, amount: int) -> str:
    if what in (What.MEMORY, What.DISK):
        return f"{_amounts(amount)[0]} {KINDS[what]}"
    return f"{amount} {KINDS[what]}"


def _all_of(way: tuple[Change, ...]) -> str:
    """The changes that are needed together, in words."""
    return " and ".join(_change(change) for change in way)


def _change(change: Change) -> str:
    by = change.was - change.to
    match change.what:
        case What.CORDONED | What.FENCED:
            return f"if it were not {change.what.value}"
        case What.TROUBLE:
            return "if nothing had failed on it"
        case What.REFUSING:
            return "if it had bid"
        case What.PROVIDER:
            return "with such a provider"
        case What.QUEUE:
            return f"with its boot queue at {change.to:.0f} instead of {change.was:.0f}"
        case What.IMAGES:
            return f"with {change.to:.0f} images to pull instead of {change.was:.0f}"
        case What.PRESSURE:
            return f"with its pressure at {change.to:.0%} instead of {change.was:.0%}"
        case What.LIKE:
            return f"with {by:.0f} fewer microVM{'' if by == 1 else 's'} of this size on it"
        case What.MEMORY | What.DISK:
            less, left, had = _amounts(by, change.to, change.was)
            return f"with {less} less {KINDS[change.what]} allocated ({left} instead of {had})"
        case _:
            kind = KINDS[change.what]
            return f"with {by:.0f} fewer {kind} allocated ({change.to:.0f} instead of {change.was:.0f})"


def _amounts(*mib: float) -> list[str]:
    """Amounts in one unit: GiB if all are whole GiB, else MiB."""
    if any(amount % 1024 for amount in mib):
        return [f"{amount:.0f} MiB" for amount in mib]
    return [f"{gib(amount)} GiB" for amount in mib]


def _score_table(host: str, mine: Score, winner: str, winners: Score) -> RenderableType:
    scores = table("HOST", ">SCORE", *(f">{HEADINGS.get(part, part.upper())}" for part in FIELDS))
    for name, score, style in ((winner, winners, "bold"), (host, mine, "")):
        scores.add_row(name, f"{score.total:.3f}", *(f"{getattr(score, part):.3f}" for part in FIELDS), style=style)
    return scores
