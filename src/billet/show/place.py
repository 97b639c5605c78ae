"""What `billet place` prints."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from billet.core.plural import counted
from billet.show.marks import gib, table
from billet.show.tables import Row, natural


def show_place(screen: Console, reply: Row, count: int) -> None:
    """A CapacityReply as a dict."""
    demand, fits = reply["demand"], reply["fits"]
    disk = f", {gib(demand['disk_mib'])} GiB disk" if demand["disk_mib"] else ""
    shape = f"{demand['vcpu']} vCPU, {gib(demand['memory_mib'])} GiB memory{disk}"
    style = "green" if fits >= count else "red bold"
    screen.print(
        Text(f"{counted(fits, 'microVM')}", style).append(f" of {shape} fit now; {count} asked for", "default")
    )
    if reply["hosts"]:
        hosts = table("~HOST", "~ZONE", ">FITS")
        for row in sorted(reply["hosts"], key=lambda row: natural(row["host"])):
            hosts.add_row(Text(row["host"], style="bold"), Text(row["zone"] or "-"), str(row["fits"]))
        screen.print(hosts)
    if "quota_left" in reply and reply["quota_left"] < count:
        more = counted(reply["quota_left"], "more microVM")
        screen.print(Text(f"the quota of their namespace allows {more}"))
    for one in reply["refused"]:
        details = f" ({one['details']})" if one["details"] else ""
        screen.print(Text(f"{counted(one['hosts'], 'host')}: {one['reason']}{details}"))
