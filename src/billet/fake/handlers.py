"""gRPC handlers: authentication first, then faults, then the method; flintlockd's texts for unknown methods.

One generic handler answers every method, so that no call gets around the token, and so that an unknown method gets
grpc-go's text: grpcio's own says "Method not found!", words that make clients create a microVM again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from billet.core.errors import Code, HostVerdict
from billet.fake.boots import PANIC_EXIT
from billet.fake.cut import cut
from billet.fake.faults import Fault, FaultKind, Faults
from billet.fake.guest import exec_command, server_info, ssh_proxy
from billet.fake.service import MicroVMs
from billet.fake.settings import EXEC_SINCE, SERVER_INFO_SINCE, FakeConfig
from billet.wire.auth import check_basic
from billet.wire.flintlock import CREATE, DELETE, GET, LIST, LIST_STREAM, SERVICE
from billet.wire.newer import EXEC, SERVER_INFO, SSH

REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[bytes], bytes]
Streamed = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]

_STATUS: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}


class Handlers(grpc.GenericRpcHandler):
    """The handlers of one fake, by the full name of the method."""

    def __init__(self, config: FakeConfig, vms: MicroVMs, faults: Faults, die: Callable[[int], object]) -> None:
        self._token = config.basic_auth_token
        self._faults = faults
        self._die = die
        unary: dict[str, Unary] = {CREATE: vms.create, DELETE: vms.delete, GET: vms.get, LIST: vms.list_all}
        if config.version() >= SERVER_INFO_SINCE:
            unary[SERVER_INFO] = lambda _: server_info(config.flintlock_version)
        streamed: dict[str, Streamed] = {LIST_STREAM: _first_only(vms.list_stream)}
        if config.version() >= EXEC_SINCE:
            streamed[EXEC] = lambda requests: exec_command(requests, vms.exists)
            streamed[SSH] = lambda requests: ssh_proxy(requests, vms.exists)
        self._methods = {name: self._unary(name, work) for name, work in unary.items()}
        self._methods |= {name: self._streamed(name, work) for name, work in streamed.items()}
        self._services = [SERVICE, *REFLECTIONS, *(name.split("/")[1] for name in (EXEC, SSH) if name in streamed)]
        for service in REFLECTIONS:
            self._methods[f"/{service}/ServerReflectionInfo"] = self._reflection()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a call. Unknown methods get one that refuses."""
        if self._token:
            metadata = dict(handler_call_details.invocation_metadata or ())
            given = metadata.get("authorization")
            if text := check_basic(given if isinstance(given, str) else None, self._token):
                return _refusing(Code.UNAUTHENTICATED, text)
        return self._methods.get(handler_call_details.method) or self._unknown(handler_call_details.method)

    def _unknown(self, method: str) -> Handler:
        _, service, name = method.split("/", 2) if method.count("/") >= 2 else ("", method, "")
        if service in self._services:
            return _refusing(Code.UNIMPLEMENTED, f"unknown method {name} for service {service}")
        return _refusing(Code.UNIMPLEMENTED, f"unknown service {service}")

    def _unary(self, method: str, work: Unary) -> Handler:
        name = method.rpartition("/")[2]

        async def handle(request: bytes, context: Context) -> bytes:
            fault = self._faults.take(name)
            await self._before(fault, context)
            try:
                reply = work(request)
            except HostVerdict as verdict:
                await context.abort(_STATUS[verdict.status], verdict.text)
            await self._after(fault, context)
            return reply

        return grpc.unary_unary_rpc_method_handler(handle)

    def _streamed(self, method: str, work: Streamed) -> Handler:
        name = method.rpartition("/")[2]

        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            fault = self._faults.take(name)
            await self._before(fault, context)
            try:
                async for reply in work(requests):
                    yield reply
            except HostVerdict as verdict:
                await context.abort(_STATUS[verdict.status], verdict.text)
            await self._after(fault, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _before(self, fault: Fault | None, context: Context) -> None:
        match fault and fault.kind:
            case FaultKind.REFUSE if fault:
                await context.abort(_STATUS.get(fault.code, grpc.StatusCode.UNKNOWN), fault.text)
            case FaultKind.SLOW if fault:
                await asyncio.sleep(fault.delay_s)
            case FaultKind.DIE:
                self._die(PANIC_EXIT)
            case FaultKind.CUT_BEFORE_ACCEPT:
                cut(context.peer())
                await _for_ever()
            case FaultKind.HANG:
                await _for_ever()

    async def _after(self, fault: Fault | None, context: Context) -> None:
        match fault and fault.kind:
            case FaultKind.DIE_AFTER_ACCEPT:
                self._die(PANIC_EXIT)
            case FaultKind.CUT_AFTER_ACCEPT:
                cut(context.peer())
                await _for_ever()
            case FaultKind.HANG_AFTER_ACCEPT:
                await _for_ever()

    def _reflection(self) -> Handler:
        # v1 and v1alpha have the same messages under two names.
        return grpc.stream_stream_rpc_method_handler(
            ReflectionServicer(self._services).ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )


def _first_only(work: Callable[[bytes], Any]) -> Streamed:
    """Adapt a method with one request to a handler of streams."""

    async def handle(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        for reply in work(await anext(requests, b"")):
            yield reply

    return handle


def _refusing(code: Code, text: str) -> Handler:
    # Streams both ways: on the wire that takes a call of any kind.
    async def refuse(_: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await context.abort(_STATUS[code], text)
        yield b""  # never: this makes it a generator

    return grpc.stream_stream_rpc_method_handler(refuse)


async def _for_ever() -> None:
    # gRPC cancels the handler when the client gives up, its connection ends or the server stops.
    await asyncio.get_running_loop().create_future()
