"""One auction's record as a story: what was wanted, who bid what, who refused and why, who won, how long it took.

A record is the JSON object that a server keeps of every auction (docs/architecture.md, "Records"). Fields that are
not there are left out of the picture, so that records of an older or a newer Billet can still be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from billet.core.model import FORMULA
from billet.core.plural import counted
from billet.show.marks import bar, duration, gib, table

AuctionRecord = Mapping[str, Any]

REASONS = {
    "NO_VCPU": "not enough vCPU",
    "NO_MEMORY": "not enough memory",
    "NO_DISK": "not enough disk",
    "NO_SLOT": "no free microVM slot",
    "PROVIDER": "has no such provider",
    "MACVTAP": "its provider cannot do macvtap",
    "VIRTIOFS": "its provider cannot do virtiofs",
    "ZONE": "is not in the required zone",
    "HOST": "is not the required host",
    "LABEL": "lacks a required label",
    "AVOIDED": "has a label that the request avoids",
    "APART": "has another microVM of the apart group",
    "CORDONED": "is cordoned",
    "FENCED": "is fenced",
    "DAEMON_AWAY": "its flintlockd does not answer",
    "STOPPING": "its agent is stopping",
    "SILENT": "did not answer the call for bids",
    "AWAY": "is not connected",
    "DECLINED": "withdrew its bid",
}
LEGS = {"bids": "bids", "reserve": "commit RESERVED", "boot_order": "flintlockd", "start": "commit STARTED"}
PREFERENCE = ">WISH"  # where the microVM has soft wishes
BID_COLUMNS = (
    "~HOST",
    ">SCORE",
    "FULL\nAFTER",
    ">SHAPE",
    ">PRES-\nSURE",
    ">BOOT\nDELAY",
    PREFERENCE,
    ">BOOT\nQUEUE",
    ">FREE\nvCPU",
    ">FREE\nGiB",
)
HOSTS_TOLD = 4  # of those that pull
GROUPS_TOLD = 4  # hosts of which it is told who of the group is there
SAME = 1e-9  # two prices that differ by less are the same, added up in another order


def explained(record: AuctionRecord) -> RenderableType:
    """The whole story of one auction."""
    parts: list[RenderableType] = [_wanted(record)]
    attempts = record.get("attempts", [])
    for number, attempt in enumerate(attempts, 1):
        if len(attempts) > 1:
            parts.append(Text(f"Attempt {number} of {len(attempts)}", style="bold"))
        parts += [*_attempt(attempt, _waits_count(record)), *_shadow(record, attempt)]
    parts.append(_outcome(record.get("outcome", {}), attempts))
    legs = _legs(record.get("legs_ms", {}))
    return Group(*parts, legs) if legs else Group(*parts)


def older(records: Sequence[AuctionRecord], key: str) -> str:
    """A line on the auctions of the same name before the newest."""
    ids = [record.get("auction", {}).get("id", "?") for record in records[1:]]
    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"\nThis is the newest. {counted(len(ids), 'older auction')} of {key}: {shown} (billet explain ID)"


def _wanted(record: AuctionRecord) -> Text:
    auction = record.get("auction", {})
    demand = auction.get("demand", {})
    text = Text().append(f"{auction.get('namespace', '?')}/{auction.get('name', '?')}", style="bold cyan")
    text.append(f" wants {demand.get('vcpu', 0)} vCPU, {gib(demand.get('memory_mib', 0))} GiB memory")
    if demand.get("disk_mib"):
        text.append(f", {gib(demand['disk_mib'])} GiB disk")
    needs = [what for what in ("macvtap", "virtiofs") if auction.get(f"needs_{what}")]
    if auction.get("provider"):
        needs.insert(0, f"provider {auction['provider']}")
    text.append(f"; needs {', '.join(needs)}" if needs else "")
    constraints = [_preference(preference, value) for preference, value in auction.get("constraints", {}).items()]
    text.append(f"; wishes {', '.join(constraints)}" if constraints else "")
    when = datetime.fromtimestamp(record.get("at_s", 0.0)).strftime("%Y-%m-%d %H:%M:%S")
    return text.append(f"\nauction {auction.get('id', '?')}, {when}", style="dim")


def _preference(preference: str, value: Any) -> str:
    if preference in ("require", "avoid"):
        return ", ".join(f"{preference} {label}={wanted}" for label, wanted in value)
    return "a control plane's place" if preference == "plane" else f"{preference} {value}"


def _waits_count(record: AuctionRecord) -> bool:
    """Whether long waits were priced, and pulls among them (core/auction.py:tolerance)."""
    constraints = record.get("auction", {}).get("constraints", {})
    policy = constraints.get("policy") or record.get("weights", {}).get("policy")
    return policy == "spread" and not any(constraints.get(preference) for preference in ("spread", "near", "plane"))


def _attempt(attempt: AuctionRecord, waits_count: bool) -> list[RenderableType]:
    award = attempt.get("award")
    offers, withdrawn = _offers(attempt)
    parts: list[RenderableType] = []
    if offers:
        ledger = attempt.get("ledger", {})
        parts += [_bids(offers, award, ledger), *_footnotes(offers, ledger)]
        if waits_count:
            parts += _pulls(offers, attempt.get("pulling"))
        parts += _groups(offers, ledger)
    refusals = [*attempt.get("refusals", []), *withdrawn]
    if refusals:
        parts.append(_refusals(refusals))
    parts.append(_verdict(award, [offer["counted"]["total"] for offer in offers], refusals))
    return parts


def _offers(attempt: AuctionRecord) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
    """The bids as they counted, best first, and those that the ledger had no room for any more."""
    priced = attempt.get("priced", {})
    offers: list[dict[str, Any]] = []
    withdrawn: list[Mapping[str, Any]] = []
    refused = {refusal["host"] for refusal in attempt.get("refusals", [])}  # by the ledger, after they had bid
    for bid in attempt.get("bids", []):
        if bid["host"] in refused:
            continue
        counted = priced.get(bid["host"], bid["score"])
        if "reason" in counted:
            withdrawn.append({"host": bid["host"], **counted})
            continue
        asked = counted["total"] - counted.get("preference", 0.0)  # the leader's to add, which makes no price anew
        moved = abs(asked - bid["score"]["total"]) > SAME
        offers.append({**bid, "counted": counted, "repriced": moved})
    return sorted(offers, key=lambda offer: _rank(offer, attempt.get("award") or {})), withdrawn


def _rank(offer: AuctionRecord, award: AuctionRecord) -> tuple[float, bool, bool]:
    """The lowest score first; of equal ones the winner, then the runner-up."""
    return offer["counted"]["total"], offer["host"] != award.get("host"), offer["host"] != award.get("runner_up")


def _bids(offers: list[dict[str, Any]], award: AuctionRecord | None, ledger: AuctionRecord) -> RenderableType:
    with_preferences = any(ledger.get(offer["host"], {}).get("peers") for offer in offers)
    made = table(*(column for column in BID_COLUMNS if with_preferences or column != PREFERENCE))
    for offer in offers:
        counted, host = offer["counted"], offer["host"]
        mark, style = _place(host, award)
        made.add_row(
            f"{mark} {host}",
            f"{counted['total']:.3f}{'*' if offer['repriced'] else ' '}",
            f"{counted['utilisation']:.0%}"
            if with_preferences
            else bar(counted["utilisation"], 6),  # for want of room
            f"{counted.get('shape', 0.0):.3f}",
            f"{counted['pressure']:.3f}",
            f"{counted['delay']:.3f}",
            *([f"{counted.get('preference', 0.0):.3f}"] if with_preferences else []),
            _queue(offer),
            *_room(ledger.get(host, {})),
            style=style,
        )
    return made


def _queue(offer: AuctionRecord) -> str:
    """What is before it."""
    facts = offer.get("facts", {})
    return f"{facts.get('pending', 0)} x {duration(facts['boot_s'])}" if facts.get("boot_s") else "-"


def _place(host: str, award: AuctionRecord | None) -> tuple[str, str]:
    if award and host == award.get("host"):
        return "▶", "bold"
    if award and host == award.get("runner_up"):
        return "2", ""
    return " ", "dim"


def _room(view: AuctionRecord) -> tuple[str, str]:
    """What was free before, by the ledger."""
    if not view:
        return "-", "-"
    vcpu, mib = (view["allocatable"][kind] - view["taken"].get(kind, 0) for kind in ("vcpu", "memory_mib"))
    return str(vcpu), gib(mib)


def _forecasts(offer: AuctionRecord) -> str:
    """When its bid says that the microVM would be CREATED, and for what it would have to wait."""
    told, missing = offer.get("forecast") or {}, offer.get("missing")
    pull = f"{missing} to pull" if missing else ""
    if told.get("created_s") is None:
        return f"{offer['host']} unknown ({pull})" if pull else ""
    within = f"nine of ten within {duration(told['bound_s'])}"
    return f"{offer['host']} {duration(told['created_s'])} ({', '.join(filter(None, (within, pull)))})"


PLAIN = {"delay": 1.0, "utilisation": 0.0}


def _footnotes(offers: Sequence[AuctionRecord], ledger: AuctionRecord) -> Iterable[Text]:
    discounted = [offer["host"] for offer in offers if ledger.get(offer["host"], {}).get("discount", PLAIN) != PLAIN]
    if discounted:
        yield Text(f"  discounted, because what it bids was wrong before: {', '.join(discounted)}", style="dim")
    forecast = [told for offer in offers[:5] if (told := _forecasts(offer))]
    if forecast:
        yield Text(f"  would be CREATED in: {', '.join(forecast)}", style="dim")
    repriced = [offer for offer in offers if offer["repriced"] and offer["host"] not in discounted]
    moved = [o for o in repriced if "basis" not in o or o["basis"] != ledger.get(o["host"], {}).get("taken")]
    others = [o for o in repriced if o not in moved and o.get("formula", FORMULA) != FORMULA]
    waits = [offer for offer in repriced if offer not in moved and offer not in others]
    for some, why in (
        (moved, "because the ledger had moved since the bid"),
        (others, "because its agent is of another version, and scores otherwise"),
        (waits, "by what all bids together say of boots and pulls"),
    ):
        if some:
            was = ", ".join(f"{offer['host']} bid {offer['score']['total']:.3f}" for offer in some)
            yield Text(f"  * priced anew, {why}: {was}", style="dim")


def _pulls(offers: Sequence[AuctionRecord], pulling: Sequence[str] | None) -> Iterable[Text]:
    """Whether pulls count in full; None of older records, which do not say."""
    if pulling is None or not any(offer.get("missing") for offer in offers):
        return
    if pulling:
        who = f"{', '.join(pulling[:HOSTS_TOLD])} {'pulls' if len(pulling) == 1 else 'pull'} its images already"
        yield Text(f"  pulls count in full: {who}, and one host at a time is enough", style="dim")
    else:
        yield Text("  no host pulls its images yet: for the first one, the pull is no long wait", style="dim")


def _groups(offers: Sequence[AuctionRecord], ledger: AuctionRecord) -> Iterable[Text]:
    """Who of the microVM's groups is where already, on the hosts that asked the least."""
    told = []
    for offer in offers[:GROUPS_TOLD]:
        peers = ledger.get(offer["host"], {}).get("peers", [])
        told += [f"{offer['host']} {k['preference']} {k['here']}/{k['zone']}/{k['total']}" for k in peers]
    if told:
        yield Text(f"  of its group there / in that zone / anywhere: {'; '.join(told)}", style="dim")


def _refusals(refusals: list[Mapping[str, Any]]) -> RenderableType:
    made = table(">HOSTS", "REFUSED BECAUSE", "~FOR EXAMPLE")
    for reason, count in Counter(refusal["reason"] for refusal in refusals).most_common():
        example = next(refusal for refusal in refusals if refusal["reason"] == reason)
        detail = f": {example['detail']}" if example.get("detail") else ""
        made.add_row(str(count), REASONS.get(reason, reason), f"{example['host']}{detail}")
    return made


def _verdict(award: AuctionRecord | None, totals: list[float], refusals: list[Mapping[str, Any]]) -> Text:
    if not award:
        return Text(f"Nobody won: {_everybody(len(refusals))}.", style="bold red")
    text = Text("  ").append(award["host"], style="bold green").append(f" won at {award['score']['total']:.3f}")
    if award.get("repriced"):
        text.append(" (priced anew)")
    if len(totals) == 1:
        return text.append("; it was the only one to bid.")
    runner_up = award.get("runner_up")
    equal = totals.count(min(totals))
    text.append(
        f", the lowest of {len(totals)} scores" if equal == 1 else f"; {equal} were as low, and a draw decided"
    )
    return text.append(f"; runner-up: {runner_up}." if runner_up else ".")


def _everybody(hosts: int) -> str:
    """All said no, or were not asked because a wish rules them out."""
    match hosts:
        case 0:
            return "there was no host to ask"
        case 1:
            return "the one host there is cannot take it"
        case _:
            return f"none of {hosts} hosts can take it"


def _shadow(record: AuctionRecord, attempt: AuctionRecord) -> Iterable[Text]:
    """What the policy in the shadow would have done, where there is one and somebody won."""
    won, other = attempt.get("award") or {}, attempt.get("shadow")
    if other and won:
        same = other == won.get("host")
        yield Text(
            f"  shadow ({record.get('shadow')}): would have taken {'the same' if same else other}", style="dim"
        )


def _outcome(outcome: AuctionRecord, attempts: Sequence[AuctionRecord]) -> Text:
    kind = outcome.get("kind", "")
    if kind == "created":
        return Text(f"  booted on {outcome.get('host', '?')} as ").append(outcome.get("uid", "?"), style="cyan")
    # Who said no is the last winner, or without an auction the host that was asked for its verdict.
    award = attempts[-1].get("award") if attempts else None
    words = {
        "denied": f"{award['host'] if award else 'a host'}'s flintlockd said no",
        "unplaced": "not placed",
        "unknown": "outcome not known yet; its host is being asked",
        "cancelled": "cancelled by the client",
        "failed": "failed",
    }
    head = words.get(kind, kind or "no outcome recorded")
    said = outcome.get("text", "")
    return Text(f"  {head}" + (f": {said}" if said else ""), style="red")


def _legs(legs: AuctionRecord) -> Text | None:
    if not legs:
        return None
    names = [name for name in (*LEGS, *sorted(set(legs) - {*LEGS, "total"})) if name in legs]
    parts = [f"{LEGS.get(name, name)} {legs[name]:.1f}" for name in names]
    total = [f"{legs['total']:.1f} in all"] if "total" in legs else []
    return Text("  ms: " + "; ".join([*([", ".join(parts)] if parts else []), *total]), style="dim")
