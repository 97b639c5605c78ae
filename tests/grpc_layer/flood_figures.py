"""What floods cost a real server: `python -m tests.grpc_layer.flood_figures [--tls] [--engine ngh2|grpcio]`.

For each flood, on one connection: the server's CPU time, the growth of its memory, and the slowest call of an honest
client meanwhile, beside its slowest one before. Last, 10,000 connections that say hello and nothing else, as far as
the limit of open files allows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import psutil

from billet.demo.processes import Processes
from tests.grpc_layer.floods import KINDS, PREFACE, SETTINGS, connect, frame

HEALTH = "/grpc.health.v1.Health/Check"
CALM_S = 2.0
IDLE_CONNECTIONS = 10_000
MIB = 1 << 20
ONE_FLOOD = """
import sys
from tests.grpc_layer.floods import flood
flood(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], again=False)
"""


async def honest(channel: grpc.aio.Channel, until: asyncio.Event) -> tuple[float, int]:
    """Call again and again; the slowest call in seconds, and the number of calls that failed."""
    worst_s, failed = 0.0, 0
    while not until.is_set():
        begun_s = time.monotonic()
        try:
            call: Any = channel.unary_unary(HEALTH)
            await call(b"", timeout=20)
        except grpc.aio.AioRpcError:
            failed += 1
        worst_s = max(worst_s, time.monotonic() - begun_s)
        await asyncio.sleep(0.005)
    return worst_s, failed


async def during(channel: grpc.aio.Channel, work: asyncio.Task[None]) -> tuple[float, int]:
    until = asyncio.Event()
    work.add_done_callback(lambda _: until.set())
    return await honest(channel, until)


async def measure(name: str, channel: grpc.aio.Channel, server: psutil.Process, work: asyncio.Task[None]) -> None:
    """Print what the server spends while this goes on."""
    cpu_s, memory = sum(server.cpu_times()[:2]), server.memory_info().rss
    worst_s, failed = await during(channel, work)
    spent_s, grown = sum(server.cpu_times()[:2]) - cpu_s, server.memory_info().rss - memory
    print(
        f"{name:16} CPU {spent_s:6.2f} s  memory {grown / MIB:+7.1f} MiB  "
        f"slowest call {worst_s * 1e3:7.1f} ms  failed {failed}",
        flush=True,
    )


async def flood(kind: str, port: int, seconds: float, ca: str) -> None:
    """One connection's flood, from a process of its own; over when the server ends it."""
    command = [sys.executable, "-c", ONE_FLOOD, kind, str(port), str(seconds), ca]
    process = await asyncio.create_subprocess_exec(*command)
    await process.wait()


async def idle(port: int, ca: str, held: list[socket.socket]) -> None:
    """Open connections and keep them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hello = PREFACE + frame(SETTINGS, 0, 0)
    for n in range(min(IDLE_CONNECTIONS, hard - 200)):
        with suppress(OSError):
            if ca:
                held.append(connect(port, ca))
            else:
                one = socket.create_connection((f"127.0.0.{2 + n % 100}", port), timeout=10)
                one.sendall(hello)
                held.append(one)
        if n % 50 == 0:
            await asyncio.sleep(0)


def channel_to(address: str, ca: str) -> grpc.aio.Channel:
    if ca:
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(Path(ca).read_bytes()))
    return grpc.aio.insecure_channel(address)


async def main(arguments: argparse.Namespace, folder: Path) -> None:
    flags, ca = ["--insecure"], ""
    if arguments.tls:
        make = [sys.executable, "-m", "billet", "certs", "new", str(folder), "--host", "127.0.0.1"]
        await asyncio.to_thread(subprocess.run, make, check=True, stdout=subprocess.DEVNULL)
        flags, ca = (
            ["--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key")],
            str(folder / "ca.crt"),
        )
    os.environ["BILLET_GRPC_ENGINE"] = arguments.engine
    process = Processes(folder).billet(
        "server", "server", "--data-dir", str(folder), "--grpc-endpoint", "0.0.0.0:0", "--http-endpoint", "", *flags,
        "--link-endpoint", "127.0.0.1:0", "--link-insecure", "--json-ready",
    )  # fmt: skip
    port = int((await asyncio.to_thread(process.ready, 60))["grpc"].rpartition(":")[2])
    server, channel = psutil.Process(process.pid), channel_to(f"127.0.0.1:{port}", ca)
    print(f"{arguments.engine}, {'TLS' if ca else 'plain'}, {arguments.seconds:g} s a flood at most")
    await measure("calm", channel, server, asyncio.create_task(asyncio.sleep(CALM_S)))
    for kind in KINDS:
        await measure(kind, channel, server, asyncio.create_task(flood(kind, port, arguments.seconds, ca)))
    held: list[socket.socket] = []
    await measure("idle", channel, server, asyncio.create_task(idle(port, ca, held)))
    print(f"{len(held)} idle connections; the server has {server.num_fds()} descriptors open")
    await measure("calm, with idle", channel, server, asyncio.create_task(asyncio.sleep(CALM_S)))
    await channel.close()
    await asyncio.to_thread(process.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--engine", default="ngh2")
    parser.add_argument("--seconds", type=float, default=5.0)
    with TemporaryDirectory() as folder:
        asyncio.run(main(parser.parse_args(), Path(folder)))
