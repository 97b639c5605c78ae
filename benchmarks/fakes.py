"""Many fake flintlockds in one process, each with a gRPC port of its own. `python -m benchmarks.fakes ORDER.json`.

Boots and pulls take no time. What is placed beforehand comes from a state file, as after a restart of the host.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec
import uvloop
from ulid import ULID

from billet.accepting import raise_descriptor_limit
from billet.demo.workload import Shape, spec_of
from billet.fake.disk import Disk
from billet.fake.model import accept, run
from billet.fake.server import FakeFlintlockd
from billet.fake.settings import FakeConfig
from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest


class Order(msgspec.Struct, frozen=True):
    """So many hosts, with so many microVMs on all of them together; `folder` is for their state."""

    hosts: int
    placed: int
    folder: str


async def serve(order: Order) -> None:
    """Start all of them, say where they are, and serve until the process is ended."""
    raise_descriptor_limit()
    fakes = [FakeFlintlockd(_config(order, n)) for n in range(order.hosts)]
    for fake in fakes:
        await fake.start()
    print(json.dumps({"flintlocks": [fake.grpc_address for fake in fakes]}), flush=True)
    await asyncio.get_running_loop().create_future()


def _config(order: Order, n: int) -> FakeConfig:
    state = ""
    if order.placed:
        state = str(Path(order.folder) / f"host-{n}.db")
        _place(state, n, order.placed // order.hosts + (n < order.placed % order.hosts))
    return FakeConfig(
        grpc_endpoint="127.0.0.1:0",
        control_endpoint="",
        boot_mean_s=0.0,
        pull_mean_s=0.0,
        delete_mean_s=0.0,
        seed=n,
        state_file=state,
    )


def _place(path: str, host: int, count: int) -> None:
    """Microvms that were made on this host directly, and run."""
    disk = Disk(path)
    for n in range(count):
        request = CreateMicroVMRequest(microvm=spec_of(Shape(f"placed-{host}-{n}", 1, 1024)))
        record = accept(request, str(ULID()), "firecracker")
        run(record.vm)
        disk.save(record)
    disk.close()


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)))
