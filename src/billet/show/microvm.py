"""What `billet vm show` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from billet.show.events import event_line
from billet.show.marks import age, gib, table
from billet.show.tables import UNKNOWN, Row, vm_state

if TYPE_CHECKING:
    from billet.wire.pb.flintlock_types_pb2 import MicroVM, Volume


def show_microvm(
    screen: Console, row: Row, vm: MicroVM | None, why: str, events: Sequence[Any], now_s: float
) -> None:
    """A placement (as a dict), what its host says of the microVM, or why that is unknown, and its events."""
    screen.print(Text(f"{row['namespace']}/{row['name']}", style="bold"))
    result = table("", "~")
    result.show_header = False
    for name, value in (*_placed(row, now_s), *(_spec(vm) if vm else [("details", Text(why, style="yellow"))])):
        result.add_row(name, value if isinstance(value, Text) else Text(value))
    screen.print(result)
    for event in events:
        screen.print(event_line(event), soft_wrap=True)


def _placed(row: Row, now_s: float) -> Iterator[tuple[str, str | Text]]:
    yield "uid", row["uid"] or UNKNOWN
    yield "host", row["host"] or UNKNOWN
    yield "state", vm_state(row)
    if "vcpu" not in row:  # a plain flintlockd's
        return
    disk = f", {gib(row['disk_mib'])} GiB disk" if row["disk_mib"] else ""
    yield "size", f"{row['vcpu']} vCPU, {gib(row['memory_mib'])} GiB memory{disk}"
    won = f"score {row['score']:.3f}, runner-up {row['runner_up'] or 'none'}"
    yield "auction", "none: created directly on the host" if row["adopted"] else won
    yield "labels", ", ".join(f"{key}={text}" for key, text in sorted(row["labels"].items())) or UNKNOWN
    yield "changed", f"{age(now_s - row['changed_at_s'])} ago"


def _spec(vm: MicroVM) -> Iterator[tuple[str, str | Text]]:
    spec, status = vm.spec, vm.status
    if status.retry:
        yield "failed boots", Text(str(status.retry), style="yellow")
    yield "provider", spec.provider or "the host's default"
    yield "kernel", " ".join(filter(None, (spec.kernel.image, spec.kernel.filename)))
    yield "root volume", _volume(spec.root_volume)
    for volume in spec.additional_volumes:
        yield f"volume {volume.id}", _volume(volume)
    for nic in spec.interfaces:
        on_host = status.network_interfaces.get(nic.device_id)
        parts = [nic.IfaceType.Name(nic.type), nic.address.address]
        parts += [on_host.host_device_name, on_host.mac_address] if on_host else [nic.guest_mac]
        yield f"interface {nic.device_id}", " ".join(filter(None, parts))
    yield "metadata", ", ".join(sorted(spec.metadata)) or UNKNOWN  # the names: the values are secrets


def _volume(volume: Volume) -> str:
    size = f"{gib(volume.size_in_mb)} GiB" if volume.size_in_mb else ""
    source = volume.source.container_source or volume.source.virtiofs_source
    return " ".join(filter(None, (source, size, "read-only" if volume.is_read_only else "")))
