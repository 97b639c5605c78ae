"""The client: concurrent CreateMicroVM calls over grpc.aio. `python -m benchmarks.client JSON`.

It carries out a whole plan and says after each run what came out, one JSON line each. It reads the CPU of the
other processes itself, right before and after the creates, so that nothing else is counted.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import grpc
import grpc.aio
import msgspec
import psutil

from benchmarks.plan import Measured, Plan, Run
from billet.demo.workload import Shape, spec_of
from billet.wire.flintlock import CREATE
from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest, CreateMicroVMResponse

REST_S = 0.5  # after each run: the agents see the last boots, twice 0.25 s
DEADLINE_S = 60.0


async def carry_out(plan: Plan) -> None:
    """All runs, one after another."""
    channels = {run.address: grpc.aio.insecure_channel(run.address) for run in plan.runs}
    for number, run in enumerate(plan.runs):
        channel = channels[run.address]
        requests = [_request(f"bench-{number}-{n}") for n in range(run.warm_up + run.creates)]
        await crowd(channel, requests[: run.warm_up], run.in_flight)
        measured = await measure(channel, requests[run.warm_up :], run, plan.pids[run.target])
        print(msgspec.json.encode(measured).decode(), flush=True)
        await asyncio.sleep(REST_S)
    for channel in channels.values():
        await channel.close()


async def measure(channel: grpc.aio.Channel, requests: Sequence[bytes], run: Run, pids: dict[str, int]) -> Measured:
    """One run. Raises when a create fails or a uid comes twice: then there is nothing to measure."""
    processes = {part: psutil.Process(pid) for part, pid in pids.items()} | {"client": psutil.Process()}
    before = {part: cpu_s(process) for part, process in processes.items()}
    begun_s = time.perf_counter()
    latencies_ms, replies = await crowd(channel, requests, run.in_flight)
    seconds = time.perf_counter() - begun_s
    used = {part: cpu_s(process) - before[part] for part, process in processes.items()}
    uids = {CreateMicroVMResponse.FromString(reply).microvm.spec.uid for reply in replies}
    if len(uids) != len(requests) or "" in uids:
        raise RuntimeError(f"{len(requests)} creates, and only {len(uids)} microVMs")
    return Measured(run, seconds, latencies_ms, used)


async def crowd(
    channel: grpc.aio.Channel, requests: Sequence[bytes], in_flight: int
) -> tuple[list[float], list[bytes]]:
    """Make all of these creates, so many at once: milliseconds of each, and the replies."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CREATE)
    latencies_ms: list[float] = []
    replies: list[bytes] = []
    waiting = iter(requests)

    async def worker() -> None:
        for request in waiting:
            begun_s = time.perf_counter()
            replies.append(await call(request, timeout=DEADLINE_S))
            latencies_ms.append((time.perf_counter() - begun_s) * 1e3)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    return latencies_ms, replies


def cpu_s(process: psutil.Process) -> float:
    """What a process has used, user and system, its children included."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def _request(name: str) -> bytes:
    return CreateMicroVMRequest(microvm=spec_of(Shape(name, 1, 1024))).SerializeToString()


if __name__ == "__main__":
    asyncio.run(carry_out(msgspec.json.decode(sys.argv[1], type=Plan)))
