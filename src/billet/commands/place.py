"""`billet place`: how many microVMs of one shape fit now, and where. Creates nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from billet.commands import completion
from billet.commands.lists import as_dicts
from billet.commands.options import Pairs, client_options, console, output_option
from billet.core.constraints import PREFIX

if TYPE_CHECKING:
    from billet.client import Address
    from billet.wire.pb.fleet_pb2 import CapacityRequest


@click.command()
@click.option("--count", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Number of microVMs.")
@click.option("-f", "--file", "path", default="", metavar="FILE",
              help="Take the shape from a spec, as `billet create` does. - = standard input.")  # fmt: skip
@click.option("--vcpu", type=click.IntRange(1, 64), help="vCPUs of each. Default: the file's, or 2.")
@click.option("--memory-mib", type=click.IntRange(1024, 32768), help="Memory of each in MiB. Default: the file's, or"
              " 1024.")  # fmt: skip
@click.option("--disk-mib", type=click.IntRange(0), help="Disk of each in MiB. Default: the file's, or 0.")
@click.option("--zone", default="", shell_complete=completion.zones, help="Only hosts of this zone.")
@click.option("--label", "labels", type=Pairs(), multiple=True, metavar="KEY=VALUE",
              help="Label of the microVMs, for example billet.io/require.gpu=yes. Repeatable.")  # fmt: skip
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=completion.namespaces,
    help="Count its quota and its groups too; overrides the file.",
)
@client_options
@output_option
def place(
    address: Address, output: str, count: int, path: str, vcpu: int | None, memory_mib: int | None,
    disk_mib: int | None, zone: str, labels: tuple[tuple[str, str], ...], namespace: str,
) -> None:  # fmt: skip
    """Show how many microVMs of one shape fit now, and on which hosts. Nothing is created or reserved.

    The leader counts what each host's free room takes, with the constraints of a real create. The exit code is 1 if
    fewer fit than --count, and the reasons follow.

    \b
    billet place --count 10 --vcpu 4 --memory-mib 8192 --zone a
    billet place --count 10 -f spec.yaml
    """
    from billet.client import Client
    from billet.show.place import show_place
    from billet.wire.pb.fleet_pb2 import CapacityReply

    own = dict(labels) | ({f"{PREFIX}zone": zone} if zone else {})
    request = _request(path, namespace, own, {"vcpu": vcpu, "memory_in_mb": memory_mib}, disk_mib)
    request.count = count
    with Client(address) as client:
        reply = as_dicts(client.fleet("Capacity", request, CapacityReply))
    if output == "json":
        click.echo(json.dumps(reply, indent=2))
    else:
        show_place(console(), reply, count)
    if reply["fits"] < count:
        click.get_current_context().exit(1)


def _request(
    path: str, namespace: str, labels: dict[str, str], sizes: dict[str, int | None], disk_mib: int | None
) -> CapacityRequest:
    """The shape: the file's, with what the options say instead. Its metadata stays here: it may hold secrets."""
    from billet.commands.spec import read_spec
    from billet.wire.pb.fleet_pb2 import CapacityRequest
    from billet.wire.pb.flintlock_types_pb2 import MicroVMSpec

    spec = read_spec(path) if path else MicroVMSpec()
    spec.ClearField("metadata")
    spec.labels.update(labels)
    spec.namespace = namespace or spec.namespace
    for field, amount in sizes.items():
        if amount is not None:
            setattr(spec, field, amount)
    if disk_mib is not None:
        del spec.additional_volumes[:]
        spec.root_volume.size_in_mb = disk_mib
    return CapacityRequest(microvm=spec)
