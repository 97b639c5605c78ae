"""`python -m benchmarks.transport`: what one gRPC call costs, Billet's own layer against grpcio's.

1 KiB unary, with a number of calls in flight, plain and over TLS. The side under test runs on either engine in a
process of its own; the other side always on Billet's own. Runs alternate between the engines; medians are printed,
and their ratios, which is what to compare between machines.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import uvloop
from rich.console import Console
from rich.table import Table

from billet.adapters.pki import Files, write_pki
from billet.grpc.dial import Address
from billet.grpc.engine import GRPCIO, OWN, VARIABLE, new_channel, new_server
from billet.grpc.interface import Routes, ServerCall
from billet.wire.tls import ClientTls, TlsSettings

METHOD = "/bench.Bench/Echo"
MESSAGE = b"x" * 1024
WARM_UP_SHARE = 0.3  # of the measured time, before it


class Side(NamedTuple):
    """One kind of run: which side is under test, over which connection, with how many calls at a time."""

    side: str  # "server" or "client"
    tls: bool
    in_flight: int


class Cost(NamedTuple):
    """What came out: milliseconds of the median call, CPU microseconds per call of the side under test, calls/s."""

    p50_ms: float
    cpu_us: float
    per_s: float


async def serve(tls: TlsSettings) -> None:
    """Echo, print the port, and note the CPU time that was used when asked for it on stdin."""

    async def echo(request: bytes, call: ServerCall) -> bytes:
        return request

    port = await new_server(Routes(unary={METHOD: echo})).listen("127.0.0.1", 0, tls)
    print(port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)


async def call(port: int, in_flight: int, seconds: float, tls: ClientTls | None) -> None:
    """Call without pause, and print latencies and CPU time. A line on stdout marks the begin and the end."""
    channel = new_channel(Address("127.0.0.1", port, tls))
    latencies_ms: list[float] = []

    async def worker(until_s: float) -> None:
        while (begun_s := time.perf_counter()) < until_s:
            await channel.unary(METHOD, MESSAGE, 30.0)
            latencies_ms.append((time.perf_counter() - begun_s) * 1e3)

    async def crowd(seconds: float) -> None:
        until_s = time.perf_counter() + seconds
        await asyncio.gather(*(worker(until_s) for _ in range(in_flight)))

    await crowd(seconds * WARM_UP_SHARE)
    latencies_ms.clear()
    print("begin", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    used_s = time.process_time()
    await crowd(seconds)
    used_s = time.process_time() - used_s
    print(json.dumps({"p50_ms": median(latencies_ms), "calls": len(latencies_ms), "cpu_s": used_s}), flush=True)
    await channel.close()


@contextmanager
def child(engine: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of this module on an engine."""
    command = [sys.executable, "-m", "benchmarks.transport", *arguments]
    environment = {**os.environ, VARIABLE: engine}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str], asked: str = "") -> str:
    """The next line of a process, after saying one to it."""
    assert process.stdin
    assert process.stdout
    if asked:
        process.stdin.write(asked + "\n")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process of the benchmark has ended")
    return line


def run(kind: Side, engine: str, seconds: float, pki: Files) -> Cost:
    """One run of one kind with an engine on the side under test."""
    files = [str(pki.server_cert), str(pki.server_key)] if kind.tls else []
    ca = [str(pki.ca)] if kind.tls else []
    engines = (engine, OWN) if kind.side == "server" else (OWN, engine)
    with child(engines[0], "serve", *files) as server:
        port = said(server).strip()
        with child(engines[1], "call", port, str(kind.in_flight), str(seconds), *ca) as client:
            said(client)
            before_s = float(said(server, "cpu"))
            result: dict[str, Any] = json.loads(said(client, "go"))
            server_s = float(said(server, "cpu")) - before_s
    used_s = server_s if kind.side == "server" else result["cpu_s"]
    return Cost(result["p50_ms"], used_s / result["calls"] * 1e6, result["calls"] / seconds)


def medians(costs: list[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(*(median(values) for values in zip(*costs, strict=True)))


@click.command()
@click.option("--repeats", default=5, show_default=True, help="Runs of each kind and engine.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each run.")
def main(repeats: int, seconds: float) -> None:
    """Measure all kinds, the engines in turn, and print the medians."""
    table = Table("under test", "connection", "in flight", "engine", "p50 ms", "CPU us/call", "calls/s", "CPU ratio")
    with TemporaryDirectory() as folder:
        pki = write_pki(Path(folder), ["127.0.0.1"], days=1)
        for kind in map(Side._make, product(("server", "client"), (False, True), (1, 16, 64))):
            costs: dict[str, list[Cost]] = {GRPCIO: [], OWN: []}
            for _ in range(repeats):
                for engine, measured in costs.items():
                    measured.append(run(kind, engine, seconds, pki))
            theirs, ours = medians(costs[GRPCIO]), medians(costs[OWN])
            for name, cost in ((GRPCIO, theirs), (OWN, ours)):
                ratio = f"{cost.cpu_us / theirs.cpu_us:.2f}"
                table.add_row(
                    kind.side, "TLS" if kind.tls else "plain", str(kind.in_flight), name,
                    f"{cost.p50_ms:.2f}", f"{cost.cpu_us:.0f}", f"{cost.per_s:.0f}", ratio,
                )  # fmt: skip
            Console(stderr=True).print(f"measured {kind}")
    Console(width=120).print(table)


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["serve"]:
            settings = TlsSettings(cert=sys.argv[2], key=sys.argv[3]) if sys.argv[2:] else TlsSettings(insecure=True)
            uvloop.run(serve(settings))
        case ["call"]:
            trusted = ClientTls(sys.argv[5]) if sys.argv[5:] else None
            uvloop.run(call(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), trusted))
        case _:
            main()
