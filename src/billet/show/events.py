"""Events as lines, and what became of a microVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from billet.show.marks import age, duration

Event = Mapping[str, Any]
WIDTH = 16  # of the longest usual type
STYLES = {
    "microvm-created": "green", "microvm-failed": "red", "microvm-refused": "red", "microvm-lost": "red",
    "microvm-fenced": "magenta", "microvm-deleted": "dim", "quota-hit": "yellow", "host-away": "red",
    "host-suspect": "yellow", "host-fenced": "magenta", "leader-changed": "cyan", "leader-lost": "yellow",
    "store-trouble": "red", "store-back": "green", "host-back": "green", "host-recovered": "green",
}  # fmt: skip


def event_line(event: Event) -> Text:
    """One event: time, type, what it is about, text."""
    kind = event.get("type", "?")
    at = datetime.fromtimestamp(event.get("at_s", 0.0)).strftime("%m-%d %H:%M:%S.%f")[:-3]
    line = Text().append(at, style="dim").append(f"  {kind:<{WIDTH}}  ", style=STYLES.get(kind, "default"))
    who = [event.get(field, "") for field in ("microvm", "host", "server")]
    line.append(" ".join(filter(None, who)), style="bold")
    return line.append(f"  {_said(event)}")


def _said(event: Event) -> str:
    text = str(event.get("text", ""))
    return f"{text} after {duration(event['after_s'])}" if event.get("after_s") is not None else text


def fate(record: Mapping[str, Any]) -> Text | None:
    """What became of the microVM of an auction's record, beside what its bid predicted; None if nothing is known."""
    events: Sequence[Event] = record.get("events", ())
    begun_s = record.get("at_s", 0.0)
    parts = []
    for event in events:
        match event.get("type"):
            case "microvm-created":
                parts.append(f"CREATED after {duration(event.get('after_s', 0.0))}{_predicted(record)}")
            case "microvm-failed" if event.get("uid"):
                parts.append(str(event.get("text", "failed")))
            case "microvm-deleted" | "microvm-lost" | "microvm-found" | "microvm-fenced" as kind:
                word = kind.removeprefix("microvm-")
                parts.append(f"{word} after {age(max(event.get('at_s', 0.0) - begun_s, 0.0))}")
    return Text(f"  what became of it: {'; '.join(parts)}") if parts else None


def _predicted(record: Mapping[str, Any]) -> str:
    """The winning bid's prediction."""
    attempts = record.get("attempts") or [{}]
    winner = (attempts[-1].get("award") or {}).get("host")
    for bid in attempts[-1].get("bids", ()):
        forecast = bid.get("forecast") or {}
        if bid.get("host") == winner and forecast.get("created_s") is not None:
            within = f", 90 % within {duration(forecast['bound_s'])}" if forecast.get("bound_s") else ""
            return f" (predicted {duration(forecast['created_s'])}{within})"
    return ""
