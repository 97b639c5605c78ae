"""What `billet status` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from billet.core.plural import counted
from billet.show.marks import age, gib, size, state, table
from billet.show.tables import Row, natural

GOOD, BAD, ODD = "green", "red bold", "yellow"


def show_status(screen: Console, reply: Row) -> None:
    """A StatusReply as a dict."""
    screen.print(_leader(reply))
    screen.print()
    screen.print(servers_table(reply))
    for line in store_lines(reply["store"]):
        screen.print(line)
    screen.print()
    if reply["store"]["members"]:
        screen.print(members_table(reply["store"]))
    for line in fleet_lines(reply):
        screen.print(line)


def _leader(reply: Row) -> Text:
    if not reply["leader"]:
        text = Text("No leader", BAD).append(f": {reply['no_leader'] or 'no server leads'}", "default")
        return text.append(f" (as {reply['server']} sees it)", "default")
    text = Text("Leader ", "default").append(reply["leader"], GOOD)
    return text.append(f", term {reply['fleet']['term']}", "default")


def servers_table(reply: Row) -> Table:
    """The servers, by name."""
    result = table("~SERVER", "STANDS", "~gRPC", "~HTTP", "~LINK", "VERSION")
    for row in sorted(reply["servers"], key=lambda row: natural(row["id"])):
        marks = [mark for mark, so in (("leads", row["id"] == reply["leader"]),
                                       ("asked", row["id"] == reply["server"])) if so]  # fmt: skip
        name = Text(row["id"], style="bold").append(f" ({', '.join(marks)})" if marks else "", "default")
        unknown = not reply["store"]["serving"]
        stands = Text("unknown", ODD) if unknown else Text("yes", GOOD)
        if row["missing_s"] and not unknown:
            stands = Text(f"missing {age(row['missing_s'])}", BAD)
        result.add_row(name, stands, row["grpc"], row["http"] or "-", row["link"], row["version"] or "-")
    return result


def store_lines(store: Row) -> list[Text]:
    """Whether the store is serving, and what troubles it."""
    members = store["members"]
    answer = sum(member["answers"] for member in members)
    count = f"{answer} of {len(members)} members {'answers' if answer == 1 else 'answer'}" if len(members) > 1 else ""
    old = f", {age(store['age_s'])} ago" if store["age_s"] > 10 else ""
    if store["serving"]:
        style = GOOD if answer == len(members) else ODD
        lines = [Text("Store ", "default").append("serving", style).append(count and f": {count}{old}", "default")]
    else:
        said = "; ".join(part for part in (count, store["why"]) if part)
        lines = [Text("Store ", "default").append("NOT SERVING", BAD).append(f": {said}{old}", "default")]
    return lines + [Text(trouble, ODD) for trouble in store["troubles"]]


def members_table(store: Row) -> Table:
    """The members of the store."""
    result = table("~MEMBER", "STATE", "VERSION", ">SIZE", ">USED")
    for row in store["members"]:
        if not row["answers"]:
            result.add_row(row["name"], Text("does not answer", BAD), "-", "-", "-")
        else:
            word = "leads" if row["leads"] else "answers"
            result.add_row(
                row["name"], Text(word, GOOD), row["version"], size(row["size_bytes"]), size(row["used_bytes"])
            )
    return result


def fleet_lines(reply: Row) -> list[Text]:
    """The hosts and microVMs by state, and what is taken."""
    fleet = reply.get("fleet")
    if not fleet:
        return [Text("Hosts and microVMs unknown: no leader's memory could be reached", ODD)]
    lines = [_by_state("Hosts", fleet["hosts"]), _by_state("microVMs", fleet["microvms"])]
    if fleet["hosts"]:
        taken, of = fleet["taken"], fleet["allocatable"]
        amounts = f"{taken['vcpu']} of {of['vcpu']} vCPU, {gib(taken['memory_mib'])} of {gib(of['memory_mib'])} GiB"
        lines.append(
            Text(f"Taken     {amounts} of memory, {gib(taken['disk_mib'])} of {gib(of['disk_mib'])} GiB of disk")
        )
    if fleet["not_joined"]:
        lines.append(Text(f"{counted(fleet['not_joined'], 'agent')} not let in: billet hosts --agents", ODD))
    if "stale_s" in reply:
        lines.append(Text(f"This is what {fleet['server']} knew when it last led, {age(reply['stale_s'])} ago", ODD))
    return lines


def _by_state(what: str, counts: Mapping[str, int]) -> Text:
    text = Text(f"{what:<10}{sum(counts.values())}", "default")
    parts = sorted(counts.items(), key=lambda part: (-part[1], part[0]))
    for n, (name, count) in enumerate(parts):
        text.append(": " if n == 0 else ", ", "default").append(f"{count} ", "default").append_text(state(name))
    return text
