"""Renders an auction record: the request, the bids, the refusals with their reasons, the winner and the timing.

A record is the JSON object that a server keeps of every auction (docs/architecture.md, "Records"). Missing fields are
skipped, so that records of an older or a newer Billet can be shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from billet.core.corrections import NO_TROUBLE
from billet.core.model import FORMULA, Reason
from billet.core.plural import counted
from billet.show.events import fate
from billet.show.marks import bar, duration, gib, table

AuctionRecord = Mapping[str, Any]

REASONS = {reason.name: reason.value for reason in Reason}
LEGS = {"bids": "bids", "reserve": "commit RESERVED", "boot_order": "flintlockd", "start": "commit STARTED"}
PREFERENCE = ">PREF"  # only if the microVM has soft preferences
BID_COLUMNS = (
    "~HOST", ">SCORE", "FULL\nAFTER", ">SHAPE", ">PRES-\nSURE", ">BOOT\nDELAY", PREFERENCE, ">BOOT\nQUEUE",
    ">FREE\nvCPU", ">FREE\nGiB",
)  # fmt: skip
NOT_CORRECTED = {"delay": 1.0, "utilisation": 0.0}
LEADERS_PARTS = ("preference", "trouble", "scarcity")  # added by the leader, which alone knows of them
MAX_PULLING, MAX_GROUPS = 4, 4  # pulling hosts that are named, and hosts whose group members are
SAME = 1e-9  # scores that differ by less are equal: only the order of addition differed


def auction_report(record: AuctionRecord, now: str = "") -> RenderableType:
    """The output of `billet explain` for one auction. `now`: flintlockd's state of its microVM, "" = unknown."""
    parts: list[RenderableType] = [_request(record)]
    attempts = record.get("attempts", [])
    for number, attempt in enumerate(attempts, 1):
        if len(attempts) > 1:
            parts.append(Text(f"Attempt {number} of {len(attempts)}", style="bold"))
        parts += [*_attempt(attempt, _counts_waits(record)), *_shadow(record, attempt)]
    parts.append(_outcome(record.get("outcome", {}), attempts, now))
    parts += filter(None, (fate(record), _legs(record.get("legs_ms", {}))))
    return Group(*parts)


def older_auctions(records: Sequence[AuctionRecord], key: str) -> str:
    """A line that lists the older auctions of the same name."""
    ids = [record.get("auction", {}).get("id", "?") for record in records[1:]]
    listed = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"\nThis is the newest. {counted(len(ids), 'older auction')} of {key}: {listed} (billet explain ID)"


def _request(record: AuctionRecord) -> Text:
    auction = record.get("auction", {})
    demand = auction.get("demand", {})
    text = Text().append(f"{auction.get('namespace', '?')}/{auction.get('name', '?')}", style="bold cyan")
    text.append(f" requests {demand.get('vcpu', 0)} vCPU, {gib(demand.get('memory_mib', 0))} GiB memory")
    if demand.get("disk_mib"):
        text.append(f", {gib(demand['disk_mib'])} GiB disk")
    needs = [feature for feature in ("macvtap", "virtiofs") if auction.get(f"needs_{feature}")]
    if auction.get("provider"):
        needs.insert(0, f"provider {auction['provider']}")
    text.append(f"; needs {', '.join(needs)}" if needs else "")
    constraints = [_constraint(name, value) for name, value in auction.get("constraints", {}).items()]
    text.append(f"; constraints and preferences: {', '.join(constraints)}" if constraints else "")
    when = datetime.fromtimestamp(record.get("at_s", 0.0)).strftime("%Y-%m-%d %H:%M:%S")
    return text.append(f"\nauction {auction.get('id', '?')}, {when}", style="dim")


def _constraint(name: str, value: Any) -> str:
    if name in ("require", "avoid"):
        return ", ".join(f"{name} {label}={wanted}" for label, wanted in value)
    return "control plane" if name == "plane" else f"{name} {value}"


def _counts_waits(record: AuctionRecord) -> bool:
    """Whether the auction priced waits, and pulls unless they were free (core/boots/pooling.py:Pooled.counted)."""
    constraints = record.get("auction", {}).get("constraints", {})
    policy = constraints.get("policy") or record.get("weights", {}).get("policy")
    return policy == "spread" and not constraints.get("near")


def _attempt(attempt: AuctionRecord, counts_waits: bool) -> list[RenderableType]:
    award = attempt.get("award")
    offers, withdrawn = _offers(attempt)
    parts: list[RenderableType] = []
    if offers:
        ledger = attempt.get("ledger", {})
        parts += [_bids(offers, award, ledger), *_footnotes(offers, ledger)]
        if counts_waits:
            parts += _pulls(offers, attempt.get("pulling"))
        parts += _groups(offers, ledger, attempt.get("crowding"))
    refusals = [*attempt.get("refusals", []), *withdrawn]
    if refusals:
        parts.append(_refusals(refusals))
    parts.append(_verdict(award, [_key(offer, attempt) for offer in offers], refusals))
    return parts


def _offers(attempt: AuctionRecord) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
    """The bids as the leader counted them, best first, and those for which the ledger no longer had room."""
    priced = attempt.get("priced", {})
    offers: list[dict[str, Any]] = []
    withdrawn: list[Mapping[str, Any]] = []
    refused = {refusal["host"] for refusal in attempt.get("refusals", [])}  # also by the ledger, after their bid
    for bid in attempt.get("bids", []):
        if bid["host"] in refused:
            continue
        counted = priced.get(bid["host"], bid["score"])
        if "reason" in counted:
            withdrawn.append({"host": bid["host"], **counted})
            continue
        by_host = counted["total"] - sum(counted.get(part, 0.0) for part in LEADERS_PARTS)
        repriced = abs(by_host - bid["score"]["total"]) > SAME
        offers.append({**bid, "counted": counted, "repriced": repriced})
    return sorted(offers, key=lambda offer: _rank(offer, attempt)), withdrawn


def _key(offer: AuctionRecord, attempt: AuctionRecord) -> tuple[int, int, float]:
    """What decides between two hosts: members of the group in the zone and on the host, then the score."""
    crowding = attempt.get("crowding", {}).get(offer["host"], {})
    return crowding.get("zone", 0), crowding.get("host", 0), offer["counted"]["total"]


def _rank(offer: AuctionRecord, attempt: AuctionRecord) -> tuple[tuple[int, int, float], bool, bool]:
    """Sort key: as the award decides; among equals the winner, then the runner-up."""
    award, host = attempt.get("award") or {}, offer["host"]
    return _key(offer, attempt), host != award.get("host"), host != award.get("runner_up")


def _bids(offers: list[dict[str, Any]], award: AuctionRecord | None, ledger: AuctionRecord) -> RenderableType:
    with_preferences = any(ledger.get(offer["host"], {}).get("peers") for offer in offers)
    bids = table(*(column for column in BID_COLUMNS if with_preferences or column != PREFERENCE))
    for offer in offers:
        counted, host = offer["counted"], offer["host"]
        mark, style = _rank_mark(host, award)
        bids.add_row(
            f"{mark} {host}",
            f"{counted['total']:.3f}{'*' if offer['repriced'] else ' '}",
            f"{counted['utilisation']:.0%}"
            if with_preferences
            else bar(counted["utilisation"], 6),  # there is no room for the bar beside PREF
            f"{counted.get('shape', 0.0):.3f}",
            f"{counted['pressure']:.3f}",
            f"{counted['delay']:.3f}",
            *([f"{counted.get('preference', 0.0):.3f}"] if with_preferences else []),
            _queue(offer),
            *_free_room(ledger.get(host, {})),
            style=style,
        )
    return bids


def _queue(offer: AuctionRecord) -> str:
    """The host's boot queue: microVMs x mean seconds of one boot."""
    facts = offer.get("facts", {})
    return f"{facts.get('pending', 0)} x {duration(facts['boot_s'])}" if facts.get("boot_s") else "-"


def _rank_mark(host: str, award: AuctionRecord | None) -> tuple[str, str]:
    if award and host == award.get("host"):
        return "▶", "bold"
    if award and host == award.get("runner_up"):
        return "2", ""
    return " ", "dim"


def _free_room(view: AuctionRecord) -> tuple[str, str]:
    """Free vCPU and GiB in the ledger before this microVM."""
    if not view:
        return "-", "-"
    vcpu, mib = (view["allocatable"][kind] - view["taken"].get(kind, 0) for kind in ("vcpu", "memory_mib"))
    return str(vcpu), gib(mib)


def _forecast(offer: AuctionRecord) -> str:
    """The bid's predicted time to CREATED, its 90 % bound and the images to pull."""
    forecast, missing = offer.get("forecast") or {}, offer.get("missing")
    pull = f"{counted(missing, 'image')} to pull" if missing else ""
    if forecast.get("created_s") is None:
        return f"{offer['host']} unknown ({pull})" if pull else ""
    within = f"90 % within {duration(forecast['bound_s'])}"
    return f"{offer['host']} {duration(forecast['created_s'])} ({', '.join(filter(None, (within, pull)))})"


def _footnotes(offers: Sequence[AuctionRecord], ledger: AuctionRecord) -> Iterable[Text]:
    corrections = {offer["host"]: ledger.get(offer["host"], {}).get("discount", NOT_CORRECTED) for offer in offers}
    corrected = [host for host, correction in corrections.items() if correction != NOT_CORRECTED]
    if corrected:
        yield Text(f"  corrected because earlier predictions were wrong: {', '.join(corrected)}", style="dim")
    for offer in offers:
        penalty, why = (ledger.get(offer["host"], {}).get("trouble") or NO_TROUBLE._asdict()).values()
        if penalty:
            yield Text(f"  {offer['host']} has {penalty:.3f} in its score: {why}", style="dim")
    if scarce := [offer for offer in offers if offer["counted"].get("scarcity")]:
        scores = (
            f"{o['host']} {o['counted']['scarcity']:.3f} ({ledger[o['host']]['scarcity']['label']})" for o in scarce
        )
        yield Text(f"  in the score, for labels that few hosts have: {', '.join(scores)}", style="dim")
    forecasts = [forecast for offer in offers[:5] if (forecast := _forecast(offer))]
    if forecasts:
        yield Text(f"  predicted time to CREATED: {', '.join(forecasts)}", style="dim")
    late = [offer for offer in offers if offer.get("age_s")]
    if late:
        words = ", ".join(f"{offer['host']} {duration(offer['age_s'])}" for offer in late)
        yield Text(f"  age of the standing bids, from the last reports: {words}", style="dim")
    repriced = [o for o in offers if o["repriced"] and o["host"] not in corrected and not o.get("age_s")]
    moved = [o for o in repriced if "basis" not in o or o["basis"] != ledger.get(o["host"], {}).get("taken")]
    others = [o for o in repriced if o not in moved and o.get("formula", FORMULA) != FORMULA]
    waits = [offer for offer in repriced if offer not in moved and offer not in others]
    for some, why in (
        (moved, "because the ledger had changed since the bid"),
        (others, "because its agent has another version with another score"),
        (waits, "with its wait compared with those of all bids"),
    ):
        if some:
            was = ", ".join(f"{offer['host']} bid {offer['score']['total']:.3f}" for offer in some)
            yield Text(f"  * repriced {why}: {was}", style="dim")


def _pulls(offers: Sequence[AuctionRecord], pulling: Sequence[str] | None) -> Iterable[Text]:
    """Whether pulls count in full. `pulling` is None in older records, which lack it."""
    if pulling is None or not any(offer.get("missing") for offer in offers):
        return
    if pulling:
        who = f"{', '.join(pulling[:MAX_PULLING])} {'has' if len(pulling) == 1 else 'have'} just begun to pull them"
        yield Text(f"  pulls of the images count as a wait: {who}, and one host at a time begins", style="dim")
    else:
        yield Text("  a pull of the images does not count as a wait: no host has just begun one", style="dim")


def _groups(offers: Sequence[AuctionRecord], ledger: AuctionRecord, crowding: AuctionRecord | None) -> Iterable[Text]:
    """Where the members of the microVM's groups are, for the best hosts, and whether that came before the score."""
    members = []
    for offer in offers[:MAX_GROUPS]:
        peers = ledger.get(offer["host"], {}).get("peers", [])
        members += [f"{offer['host']} {k['preference']} {k['here']}/{k['zone']}/{k['total']}" for k in peers]
    if members:
        yield Text(f"  group members on host / in zone / in fleet: {'; '.join(members)}", style="dim")
    if crowding:
        yield Text("  first the zone with the fewest of the group, then the host, then the lowest score", style="dim")


def _refusals(refusals: list[Mapping[str, Any]]) -> RenderableType:
    reasons = table(">HOSTS", "REASON", "~EXAMPLE")
    for reason, count in Counter(refusal["reason"] for refusal in refusals).most_common():
        example = next(refusal for refusal in refusals if refusal["reason"] == reason)
        detail = f": {example['detail']}" if example.get("detail") else ""
        reasons.add_row(str(count), REASONS.get(reason, reason), f"{example['host']}{detail}")
    return reasons


def _verdict(
    award: AuctionRecord | None, keys: list[tuple[int, int, float]], refusals: list[Mapping[str, Any]]
) -> Text:
    if not award:
        return Text(f"No host won: {_no_host_text(len(refusals))}.", style="bold red")
    text = Text("  ").append(award["host"], style="bold green").append(f" won at {award['score']['total']:.3f}")
    if award.get("repriced"):
        text.append(" (repriced)")
    if len(keys) == 1:
        return text.append("; it was the only bidder.")
    runner_up = award.get("runner_up")
    equal, alike = keys.count(min(keys)), sum(key[:2] == min(keys)[:2] for key in keys)
    if alike < len(keys):
        who = "it has" if alike == 1 else f"it is one of {alike} that have"
        text.append(f": of {len(keys)} hosts, {who} the fewest of the group in the zone and on the host")
    elif equal == 1:
        text.append(f", the lowest of {len(keys)} scores")
    if equal > 1:
        text.append(f"; {equal} scores tied, and a draw decided")
    return text.append(f"; runner-up: {runner_up}." if runner_up else ".")


def _no_host_text(hosts: int) -> str:
    """Why no host won. `hosts` counts the refusals, constraints that exclude a host included."""
    match hosts:
        case 0:
            return "there are no hosts to ask"
        case 1:
            return "the only host cannot take it"
        case _:
            return f"none of {hosts} hosts can take it"


def _shadow(record: AuctionRecord, attempt: AuctionRecord) -> Iterable[Text]:
    """Which host the shadow policy chose, if there is one and a host won."""
    won, other = attempt.get("award") or {}, attempt.get("shadow")
    if other and won:
        same = other == won.get("host")
        yield Text(f"  shadow policy {record.get('shadow')} chose {'the same host' if same else other}", style="dim")


# What became of a microVM that a host has taken, by flintlockd's state of it; CREATED is what flintlockd says.
NOW = {
    "CREATED": "booted on",
    "PENDING": "accepted by",
    "FAILED": "did not boot on",
    "DEAD": "created on",
    "DELETING": "being deleted from",
    "UNREACHABLE": "accepted by",
}
STILL = {
    "PENDING": "which has not booted it yet",
    "FAILED": "which has given up",
    "DEAD": "but its VMM is dead: nothing runs",
    "UNREACHABLE": "which is away",
}


def _outcome(outcome: AuctionRecord, attempts: Sequence[AuctionRecord], now: str) -> Text:
    kind = outcome.get("kind", "")
    if kind == "created":
        style = "red" if now in ("FAILED", "DEAD") else ""
        text = Text(f"  {NOW.get(now, 'accepted by')} {outcome.get('host', '?')} as ", style=style)
        text.append(outcome.get("uid", "?"), style="cyan")
        return text.append(f", {STILL[now]}" if now in STILL else "")
    # The last winner rejected it; if there was no auction, a host that was asked for its verdict.
    award = attempts[-1].get("award") if attempts else None
    words = {
        "denied": f"rejected by the flintlockd of {award['host'] if award else 'a host'}",
        "unplaced": "not placed",
        "unknown": "outcome unknown; its host is being asked",
        "cancelled": "cancelled by the client",
        "failed": "failed",
    }
    head = words.get(kind, kind or "no outcome recorded")
    detail = outcome.get("text", "")
    return Text(f"  {head}" + (f": {detail}" if detail else ""), style="red")


def _legs(legs: AuctionRecord) -> Text | None:
    if not legs:
        return None
    names = [name for name in (*LEGS, *sorted(set(legs) - {*LEGS, "total"})) if name in legs]
    parts = [f"{LEGS.get(name, name)} {legs[name]:.1f}" for name in names]
    total = [f"total {legs['total']:.1f}"] if "total" in legs else []
    return Text("  time in ms: " + "; ".join([*([", ".join(parts)] if parts else []), *total]), style="dim")
