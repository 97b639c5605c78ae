"""The client: concurrent CreateMicroVM calls over grpc.aio. `python -m benchmarks.client PLAN.json`.

It carries out a whole plan and says after each run what came out, one JSON line each. It reads the CPU of the
other processes itself, right before and after the creates, so that nothing else is counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from benchmarks.endpoint import Endpoint
from benchmarks.observer import Observer
from benchmarks.plan import BILLET, FLOORS, OTHER, Load, Measured, Plan, Target
from billet.core.errors import BilletError
from billet.demo.workload import Shape, spec_of
from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest

REST_S = 0.5  # after each run through agents: they see the last boots, twice 0.25 s


async def carry_out(plan: Plan) -> None:
    """Every load against every target, one run after another."""
    endpoints = {
        target.name: Endpoint(target.address, may_fail=bool(plan.silent) and target.name == BILLET)
        for target in plan.targets
    }
    observer = Observer(endpoints[BILLET])
    try:
        for endpoint in endpoints.values():
            await endpoint.connect()
        for number, load in enumerate(plan.loads):
            vms = [f"{plan.name}-{number}-{n}" for n in range(load.warm_up + load.creates)]
            for target in plan.targets:
                silent = plan.silent if target.name == BILLET else []
                measured = await measure(target, endpoints[target.name], load, vms, silent)
                if target.name == BILLET:
                    latencies_ms = dict(zip(vms[load.warm_up :], measured.latencies_ms, strict=True))
                    measured = msgspec.structs.replace(measured, seen=await observer.seen(latencies_ms))
                print(msgspec.json.encode(measured).decode(), flush=True)
                if target.name not in FLOORS:
                    await asyncio.sleep(REST_S)
    finally:
        if OTHER in endpoints:
            await endpoints[OTHER].delete_all()
        for endpoint in endpoints.values():
            await endpoint.close()


async def measure(
    target: Target, endpoint: Endpoint, load: Load, vms: Sequence[str], silent: Sequence[int]
) -> Measured:
    """One run. Raises when a create fails or a uid comes twice: then there is nothing to measure."""
    requests = [CreateMicroVMRequest(microvm=spec_of(Shape(vm, 1, 1024))).SerializeToString() for vm in vms]
    await endpoint.crowd(requests[: load.warm_up], load.in_flight)
    processes = {part: [psutil.Process(pid) for pid in pids] for part, pids in target.pids.items()}
    processes["client"] = [psutil.Process()]
    failed = endpoint.failed
    with standing_still(silent):
        before = {part: cpu_s(of_part) for part, of_part in processes.items()}
        begun_s = time.perf_counter()
        latencies_ms = await endpoint.crowd(requests[load.warm_up :], load.in_flight)
        seconds = time.perf_counter() - begun_s
        used = {part: cpu_s(of_part) - before[part] for part, of_part in processes.items()}
    if (distinct := len(set(endpoint.uids) - {""})) != len(endpoint.uids):
        raise BilletError(f"{len(endpoint.uids)} creates, and only {distinct} microVMs")
    return Measured(target.name, load, seconds, latencies_ms, used, endpoint.failed - failed)


@contextmanager
def standing_still(pids: Sequence[int]) -> Iterator[None]:
    """Stop these processes meanwhile, without a word to anyone."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """What processes have used, user and system, their children included."""
    times = [one.cpu_times() for process in processes for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    try:
        asyncio.run(carry_out(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)))
    except BilletError as failure:
        sys.exit(failure.text)
