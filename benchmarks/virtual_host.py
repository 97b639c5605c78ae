"""A host without a flintlockd, as its agent speaks for it: it tells its microVMs, reports, bids, and says yes."""

from __future__ import annotations

from collections.abc import Sequence

from ulid import ULID

from billet.core.bidding import bid
from billet.core.model import Facts, Host, Observed, Resources, VmState
from billet.core.pressure import Stalls
from billet.core.report import InventoryUpdate, MachineFacts, Report
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.link import bid_messages
from billet.link import messages as wire
from billet.ports import Created
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.pb import link_pb2 as pb

REPORTS = 8  # that a host sends in turn
MACHINE = MachineFacts("AMD EPYC 7B13", True, ("firecracker",), ())
FACTS = Facts(pressure=0.02, boot_s=1.3, pull_s=8.0, boots_seen=20.0, pulls_seen=5.0)


class VirtualHost:
    """One host. Each method makes messages for the link, and sends nothing."""

    def __init__(self, host: Host, rows: Sequence[Observed] = ()) -> None:
        self.host = host
        self._rows = list(rows)
        self._taken = Resources(
            *(sum(amounts) for amounts in zip((0, 0, 0, 0), *(r.demand for r in rows), strict=True))
        )

    def everything(self) -> bytes:
        """The full inventory."""
        return pb.Up(inventory=wire.put_inventory(InventoryUpdate(True, self._rows, [], []))).SerializeToString()

    def reports(self, interval_s: float) -> list[bytes]:
        """Some reports as a host with a quiet flintlockd sends them: CPU and pressure move a little."""
        return [
            pb.Up(report=wire.put_report(self._report(n / REPORTS, interval_s))).SerializeToString()
            for n in range(REPORTS)
        ]

    def _report(self, moves: float, interval_s: float) -> Report:
        return Report(
            facts=FACTS._replace(pressure=0.02 * (1 + moves)),
            cpu_share=0.3 + 0.1 * moves,
            memory_used_mib=self._taken.memory_mib,
            disk_free_mib=500_000,
            vms=len(self._rows),
            failed=0,
            daemon_ok=True,
            interval_s=interval_s,
            taken=self._taken,
            stalls=Stalls(0.02 * moves, 0.0, 0.01),
            memory_free_mib=200_000,
            volumes_free_mib=400_000,
            images=12,
            machine=MACHINE,
            flintlockd=f"flintlockd of {self.host.id}",
        )

    def answers(self, down: pb.Down) -> list[pb.Up]:
        """What the agent says to calls for bids and to orders to create. Every order is carried out."""
        answers = []
        for call in down.calls:
            bids = [
                (lot, bid(self.host, self._taken, FACTS, auction, DEFAULT_WEIGHTS))
                for lot, auction in bid_messages.get_call(call)
            ]
            answers.append(pb.Up(bids=[bid_messages.put_bids(call.round, bids)]))
        return answers + [self._carried_out(order) for order in down.orders if order.token]

    def _carried_out(self, order: pb.Order) -> pb.Up:
        vm = rpc.CreateMicroVMRequest.FromString(order.payload).microvm
        row = Observed(
            str(ULID()), vm.namespace, vm.id, wire.get_resources(order.demand), VmState.CREATED, order.token
        )
        self._rows.append(row)
        self._taken = self._taken.plus(row.demand)
        vm.uid = row.uid
        reply = rpc.CreateMicroVMResponse(microvm=types.MicroVM(spec=vm)).SerializeToString()
        update = InventoryUpdate(False, [row], [], [])
        return pb.Up(
            answers=[wire.put_outcome(order.id, Created(row.uid, reply))], inventory=wire.put_inventory(update)
        )
