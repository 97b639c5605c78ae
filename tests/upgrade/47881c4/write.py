"""Writes the store's records and the link's messages in this folder, with the code of commit 47881c4.

Usage, in a checkout of that commit: `python write.py FOLDER`. It does not run with later code; it is kept to show how
the files were made.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
from billet.adapters.sqlite import SqliteStore
from billet.wire.records import encode

from billet.adapters import backup
from billet.core.model import (
    Auction,
    Bid,
    Facts,
    Host,
    Image,
    Observed,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
    Score,
    VmState,
    Wishes,
)  # fmt: skip
from billet.core.pressure import Stalls
from billet.core.scoring import Weights
from billet.core.state import PutHost, PutPlacement
from billet.ports import Created, Denied, Inventory, Leader, MachineFacts, NotTaken, Report, Unknown
from billet.wire import link
from billet.wire.headers import REQUEST_ID, token_of
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import link_pb2 as pb

LEADER = Leader("server-1", "10.0.0.1:9090", "10.0.0.1:9095")
AT_S = 1_790_000_000.0
RACK_A1 = Host(
    "rack-a1", Resources(64, 262_144, 1_907_348, 200), Resources(124, 253_952, 1_900_000, 200), "zone-a",
    {"rack": "a", "disk": "nvme"}, "firecracker",
)  # fmt: skip
RACK_A2 = Host(
    "rack-a2", Resources(64, 262_144, 1_907_348, 200), Resources(124, 253_952, 1_900_000, 200), "zone-a",
    {"rack": "a", "disk": "hdd"}, "cloudhypervisor", cordoned=True,
)  # fmt: skip
RACK_B1 = Host("rack-b1", Resources(32, 131_072, 953_674, 100), Resources(30, 126_976, 950_000, 100), "zone-b",
               {"rack": "b"}, fenced=True)  # fmt: skip
LABELS = {
    "cluster.x-k8s.io/cluster-name": "prod", "billet.io/group": "web", "billet.io/zone": "zone-a",
    "billet.io/priority": "3",
}  # fmt: skip
TEAM = rpc.CreateMicroVMRequest()
TEAM.microvm.namespace = "team"
REQUESTED_ID = token_of(TEAM.SerializeToString(), {REQUEST_ID: "order-4711"}, lambda: "not this")


def placements() -> list[Placement]:
    """One in every state, one that was adopted, one with a request id."""
    small, large = Resources(2, 2048, 10_240, 1), Resources(16, 65_536, 102_400, 1)
    return [
        Placement("01JE000000000000000000000A", "team", "web-0", small, "rack-a1", PlacementState.RESERVED, "",
                  LABELS, 0.25, "rack-a2", False, AT_S, "agent-run-7"),
        Placement(REQUESTED_ID, "team", "web-1", large, "rack-a1", PlacementState.STARTED,
                  "01JE00000000000000000000U1", LABELS, 0.5, "rack-a2", False, AT_S + 1, "agent-run-7"),
        Placement("01JE00000000000000000000U2", "default", "by-hand", small, "rack-a2", PlacementState.STARTED,
                  "01JE00000000000000000000U2", adopted=True, changed_at_s=AT_S + 2),
        Placement("01JE000000000000000000000D", "team", "web-2", small, "rack-a2", PlacementState.RELEASING,
                  "01JE00000000000000000000U3", changed_at_s=AT_S + 3),
        Placement("01JE000000000000000000000E", "team", "web-3", small, "rack-a1", PlacementState.LOST,
                  "01JE00000000000000000000U4", changed_at_s=AT_S + 4),
        Placement("01JE000000000000000000000F", "team", "web-4", small, "rack-a1", PlacementState.GONE,
                  "01JE00000000000000000000U5", changed_at_s=AT_S + 5),
        Placement("01JE000000000000000000000G", "team", "web-5", small, "rack-b1", PlacementState.FENCED,
                  "01JE00000000000000000000U6", changed_at_s=AT_S + 6),
    ]  # fmt: skip


def changes() -> list:
    return [*map(PutHost, (RACK_A1, RACK_A2, RACK_B1)), *map(PutPlacement, placements())]


def write_records(folder: Path) -> None:
    """The records as the store keeps them, one [key, record] a line, and the leader's record."""
    rows = ((key, msgspec.Raw(record)) for key, record in map(encode, changes()))
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    (folder / "leader.json").write_bytes(msgspec.json.encode(LEADER))


async def write_store(folder: Path) -> None:
    """A store file after two terms, closed in the regular way, and its backup."""
    path = folder / "store.db"
    store = SqliteStore(path)
    await store.open()
    await store.resign(await store.campaign(LEADER))
    term = await store.campaign(LEADER)
    for change in changes():
        await store.commit(term, [change])
    backup.write(await backup.take(store, "2026-09-21T14:13:20+00:00"), folder / "backup.jsonl")
    await store.close()
    (folder / "store.db.lock").unlink()


FACTS = Facts(0.125, 2, 1.5, 3.25, 6.5, 0.375, 1, 20.0, 4.0)
REPORT = Report(
    FACTS, 0.25, 65_536, 1_500_000, 5, 1, True, 2.0, Resources(20, 69_632, 122_880, 3), Stalls(0.0625, 0.0, 0.125),
    190_000, 1_400_000, 12, MachineFacts("A CPU @ 3.0 GHz", True, ("firecracker",), ("volumes: no thin pool",)),
)  # fmt: skip
INVENTORY = Inventory(
    True,
    [
        Observed("01JE00000000000000000000U1", "team", "web-1", Resources(16, 65_536, 102_400, 1), VmState.CREATED,
                 REQUESTED_ID, 0),
        Observed("01JE00000000000000000000U2", "default", "by-hand", Resources(2, 2048, 10_240, 1), VmState.FAILED,
                 "", 3),
    ],
    ["01JE00000000000000000000U4"],
    ["01JE000000000000000000000A"],
)  # fmt: skip
BID = Bid("rack-a1", Score(0.6875, 0.5, 0.0625, 0.0625, 0.0625), Resources(20, 69_632, 122_880, 3), FACTS, 1, 2)
LOT = Auction(
    "01JE000000000000000000000A", "team", "web-0", Resources(2, 2048, 10_240, 1), "firecracker", True, False,
    wishes=Wishes(policy="pack"), images=(Image("ghcr.io/vm/ubuntu:24.04"), Image("ghcr.io/vm/kernel:6.1", True)),
)  # fmt: skip
PLAIN_LOT = Auction("01JE000000000000000000000B", "team", "web-9", Resources(4, 4096, 0, 1))


def messages() -> dict[str, pb.Up | pb.Down | pb.Piece]:
    """Every kind of frame on the link."""
    order = pb.Order(
        id=9, term=2, method="/microvm.services.api.v1alpha1.MicroVM/CreateMicroVM", payload=TEAM.SerializeToString(),
        timeout_ms=30_000, token=REQUESTED_ID, demand=link.put_resources(LOT.demand), again=True,
        instance="agent-run-7",
    )  # fmt: skip
    outcomes = [
        Created("01JE00000000000000000000U1", b"reply"), Denied(2, "creating microvm: 'VCPU' failed"),
        NotTaken(Refusal("rack-a1", Reason.STOPPING, "")), Unknown("flintlockd did not answer"),
    ]  # fmt: skip
    refusals = [(10 + n, Refusal("rack-a1", reason, f"detail {n}")) for n, reason in enumerate(Reason)]
    return {
        "up-hello": pb.Up(hello=link.put_hello(RACK_A1, "0.1.0", "agent-run-7", 2)),
        "up-report": pb.Up(report=link.put_report(REPORT)),
        "up-report-of-a-host-that-knows-little": pb.Up(
            report=link.put_report(Report(Facts(), 0.25, 0, 0, 0, 0, False, 2.0))
        ),
        "up-inventory": pb.Up(inventory=link.put_inventory(INVENTORY)),
        "up-bids": pb.Up(bids=[link.put_bids(5, [(1, BID), *refusals])]),
        "up-answers": pb.Up(answers=[link.put_outcome(n, outcome) for n, outcome in enumerate(outcomes)]),
        "down-welcome": pb.Down(welcome=link.put_welcome(2, Weights(0.25, 0.5, 4.0, "pack", 0.75))),
        "down-calls": pb.Down(calls=[link.put_call(5, [(1, LOT), (2, PLAIN_LOT)])]),
        "down-order": pb.Down(orders=[order]),
        "down-stream": pb.Down(streams=[pb.OpenStream(id="s-1", method="/x.Y/Exec", timeout_ms=1_000)]),
        "down-standby": pb.Down(standby=pb.Standby(leader=LEADER.link)),
        "down-goodbye": pb.Down(goodbye=pb.Goodbye(why="another agent has this host's name")),
        "piece": pb.Piece(data=b"data", end=True, code=5, text="text"),
    }


def main(folder: Path) -> None:
    write_records(folder)
    asyncio.run(write_store(folder))
    for name, message in messages().items():
        (folder / f"{name}.bin").write_bytes(message.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
