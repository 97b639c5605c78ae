"""One fake flintlockd: its gRPC server, its HTTP gateway, its control port, its boot worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from billet.core.errors import HostVerdict
from billet.fake.boots import BootWorker
from billet.fake.control import control_app
from billet.fake.disk import Disk
from billet.fake.faults import Faults
from billet.fake.handlers import Handlers
from billet.fake.http import HttpListener, check_free
from billet.fake.model import StoredMicroVm
from billet.fake.service import MicroVMs
from billet.fake.settings import FakeConfig
from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.dial import Address
from billet.grpc.engine import new_channel, new_server
from billet.grpc.interface import Channel, Server, exchange
from billet.grpc.limits import Limits
from billet.grpc.status import RpcError
from billet.ports import Answer
from billet.reloading import Watch
from billet.settings import split_endpoint
from billet.wire.gateway import gateway_app
from billet.wire.pb import flintlock_types_pb2 as types

SHOWN_CHARS = 4096  # of a metadata value, in the statistics
RECEIVED_BYTES = 4 << 20  # grpc-go's default; there is none for sending


class FakeFlintlockd:
    """A fake flintlockd. One process may have many, each with its own ports and microVMs.

    `die` is called where a flintlockd would crash (poison pills, faults); by default it ends the process at once.
    """

    def __init__(self, config: FakeConfig, die: Callable[[int], object] = os._exit) -> None:
        config.check()
        self.config = config
        self.faults = Faults()
        self.grpc_address = self.http_address = self.control_address = ""
        self.records: dict[str, StoredMicroVm] = {}
        self._disk = Disk(config.state_file, config.state_dir)
        self.boots = BootWorker(config, self.records, self._disk, self.faults, die)
        self.vms = MicroVMs(config, self.records, self._disk, self.boots, self.faults, die)
        self._die = die
        self._server: Server | None = None
        self._gateway: Channel | None = None
        self._listeners: list[HttpListener] = []

    async def start(self) -> None:
        """Start to listen. Raises ConfigError or http.PortTaken, with a text of one line."""
        for record in self._disk.load():
            self.records[record.uid] = record
        await self._start_grpc()
        if self.config.enable_http:
            self.http_address = await self._start_http()
        if self.config.control_endpoint:
            app = control_app(self.faults, self.stats, self.boots.preload)
            self.control_address = await self._listen(app, self.config.control_endpoint, "--control-endpoint")
        self.boots.start()

    async def stop(self) -> None:
        """Stop everything at once. Running calls are cut off."""
        await self.boots.stop()
        for listener in self._listeners:
            await listener.stop()
        if self._gateway is not None:
            await self._gateway.close()
        if self._server is not None:
            await self._server.stop(0)
        self._disk.close()

    def stats(self) -> dict[str, Any]:
        """Statistics, as plain data."""
        boots = self.boots.stats
        states = [types.MicroVMStatus.MicroVMState.Name(r.vm.status.state) for r in self.records.values()]
        return {
            "pid": os.getpid(),
            "creates_accepted": self.vms.creates_accepted,
            "by_state": {state: states.count(state) for state in sorted(set(states))},
            "microvms": [_describe(record) for record in self.records.values()],
            "created_s": boots.created_s,
            "boot_attempts": boots.attempts,
            "booting_max": boots.running_max,
            "pulls": boots.pulls,
            "images": self.boots.cached,
            "faults": self.faults.standing,
            "spinning": sorted(self.vms.spinning),
        }

    async def _start_grpc(self) -> None:
        server = new_server(
            Handlers(self.config, self.vms, self.faults, self._die).routes, Limits(message_bytes=RECEIVED_BYTES)
        )
        at = self.config.grpc_endpoint
        check_free(at, "--grpc-endpoint")
        host, port = split_endpoint(at)
        port = await server.listen(host, port, self.config.tls)
        self._server = server
        self.grpc_address = f"{at.rpartition(':')[0]}:{port}"

    async def _start_http(self) -> str:
        # As flintlockd: the gateway dials its own gRPC port without TLS, so it works only with --insecure.
        self._gateway = new_channel(
            Address(*split_endpoint(self.grpc_address)), replace(CLIENT_LIMITS, message_bytes=RECEIVED_BYTES)
        )
        app = gateway_app(self._call, self._stream)
        return await self._listen(app, self.config.http_endpoint, "--http-endpoint")

    async def _listen(self, app: Any, endpoint: str, flag: str) -> str:
        listener = HttpListener(app, endpoint, flag)
        self._listeners.append(listener)
        await listener.start()
        return listener.address

    async def _call(self, method: str, request: bytes, http: Request) -> Answer:
        assert self._gateway is not None
        try:
            response = await self._gateway.unary(method, request, metadata=_metadata(http.headers))
        except RpcError as error:
            raise HostVerdict(error.code, error.text) from error
        return Answer(response.payload)

    async def _stream(self, method: str, request: bytes, http: Request) -> AsyncIterator[bytes]:
        assert self._gateway is not None
        try:
            call = await self._gateway.stream(method, metadata=_metadata(http.headers))
            async for reply in exchange(call, _once(request)):
                yield reply
        except RpcError as error:
            raise HostVerdict(error.code, error.text) from error


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request


async def serve(config: FakeConfig) -> None:
    """Run one fake until SIGINT or SIGTERM."""
    fake = FakeFlintlockd(config)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watch = asyncio.create_task(Watch().run())
    try:
        await fake.start()
        _announce(fake)
        await stop.wait()
    finally:
        watch.cancel()
        await fake.stop()


def _announce(fake: FakeFlintlockd) -> None:
    if fake.config.json_ready:
        addresses = {"grpc": fake.grpc_address, "http": fake.http_address, "control": fake.control_address}
        print(json.dumps(addresses), flush=True)
        return
    parts = [f"fake flintlockd {fake.config.flintlock_version} ({fake.config.default_provider})"]
    parts.append(f"gRPC {fake.grpc_address}")
    if fake.http_address:
        parts.append(f"HTTP {fake.http_address}")
    if fake.control_address:
        parts.append(f"control http://{fake.control_address}")
    print(", ".join(parts), file=sys.stderr, flush=True)


def _describe(record: StoredMicroVm) -> dict[str, Any]:
    spec, status = record.vm.spec, record.vm.status
    return {
        "uid": spec.uid,
        "namespace": spec.namespace,
        "id": spec.id,
        "state": types.MicroVMStatus.MicroVMState.Name(status.state),
        "version": record.vm.version,
        "retry": status.retry,
        "provider": record.provider,
        "vcpu": spec.vcpu,
        "memory_in_mb": spec.memory_in_mb,
        "metadata": {key: value[:SHOWN_CHARS] for key, value in spec.metadata.items()},
    }


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in headers.items() if key == "authorization")
