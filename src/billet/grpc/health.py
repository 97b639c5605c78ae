"""gRPC's health service: Check, and Watch, which sends the status and every change of it."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2 as pb

from billet.core.errors import Code
from billet.grpc.interface import ServerCall
from billet.grpc.status import RpcError

SERVICE = "grpc.health.v1.Health"
METHODS = CHECK, WATCH = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"
NOT_FOUND = 5
SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The status of services, by their names; "" stands for the whole server."""

    def __init__(self) -> None:
        self._status: dict[str, int] = {"": SERVING}
        self._changed = asyncio.Event()
        self._closed = False
        self.unary = {CHECK: self.check}
        self.streams = {WATCH: self.watch}

    def set(self, service: str, serving: bool) -> None:
        """Set a service's status, and tell those who watch."""
        self._status[service] = SERVING if serving else NOT_SERVING
        self._notify()

    def close(self) -> None:
        """End all watches: they would keep a server from stopping."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(self, request: bytes, call: ServerCall) -> bytes:
        """Answer Check."""
        status = self._status.get(_service(request))
        if status is None:
            raise RpcError(NOT_FOUND, "unknown service")
        return _reply(status)

    async def watch(self, call: ServerCall) -> None:
        """Answer Watch, which ends only when its client ends it."""
        service = _service(await call.read() or b"")
        last = None
        while True:
            changed = self._changed
            status = self._status.get(service, UNKNOWN)
            if status != last:
                last = status
                await call.write(_reply(status))
            if self._closed:
                raise RpcError(Code.UNAVAILABLE, "the server is stopping")
            await changed.wait()


def _service(request: bytes) -> str:
    try:
        return pb.HealthCheckRequest.FromString(request).service
    except Exception as error:  # protobuf's own error has several homes
        raise RpcError(Code.INTERNAL, "malformed HealthCheckRequest") from error


def _reply(status: int) -> bytes:
    return pb.HealthCheckResponse(status=status).SerializeToString()
