"""gRPC handlers: authentication first, then faults, then the method; flintlockd's texts for unknown methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from billet.core.errors import Code, HostVerdict
from billet.fake.boots import PANIC_EXIT
from billet.fake.faults import Fault, FaultKind, Faults
from billet.fake.guest import exec_command, server_info, ssh_proxy
from billet.fake.service import MicroVMs
from billet.fake.settings import EXEC_SINCE, SERVER_INFO_SINCE, FakeConfig
from billet.fake.trouble import ANSWERS
from billet.grpc.interface import Routes, ServerCall, StreamHandler, UnaryHandler
from billet.grpc.reflection import SERVICES as REFLECTIONS
from billet.grpc.reflection import Reflection
from billet.grpc.status import RpcError
from billet.wire.auth import check_basic
from billet.wire.flintlock import CREATE, DELETE, GET, LIST, LIST_STREAM, SERVICE
from billet.wire.newer import EXEC, SERVER_INFO, SSH
from billet.wire.secret import Secret

Unary = Callable[[bytes], bytes]
Streamed = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]


class Handlers:
    """The handlers of one fake, by the full name of the method."""

    def __init__(self, config: FakeConfig, vms: MicroVMs, faults: Faults, die: Callable[[int], object]) -> None:
        self._secret = Secret(config.basic_auth_token)
        self._faults = faults
        self._vms = vms
        self._die = die
        unary: dict[str, Unary] = {CREATE: vms.create, DELETE: vms.delete, GET: vms.get, LIST: vms.list_all}
        has_info = config.version() >= SERVER_INFO_SINCE
        if has_info:
            unary[SERVER_INFO] = lambda _: server_info(config.flintlock_version)
        streamed: dict[str, Streamed] = {LIST_STREAM: _first_only(vms.list_stream)}
        if config.version() >= EXEC_SINCE:
            streamed[EXEC] = lambda requests: exec_command(requests, vms.exists)
            streamed[SSH] = lambda requests: ssh_proxy(requests, vms.exists)
        self._services = [SERVICE, *(name.split("/")[1] for name in (EXEC, SSH) if name in streamed)]
        reflection = Reflection(self._services, () if has_info else (SERVER_INFO[1:].replace("/", "."),))
        self.routes = Routes(
            unary={name: self._unary(name, work) for name, work in unary.items()},
            streams={**{name: self._streamed(name, work) for name, work in streamed.items()}, **reflection.streams},
            fallback=self._unknown,
            admit=self._admit,
        )

    def _admit(self, call: ServerCall) -> str:
        given = dict(call.metadata).get("authorization")
        if text := check_basic(given if isinstance(given, str) else None, *self._secret.lines):
            raise RpcError(Code.UNAUTHENTICATED, text)
        return ""

    async def _unknown(self, call: ServerCall) -> None:
        _, service, name = call.method.split("/", 2) if call.method.count("/") >= 2 else ("", call.method, "")
        if service in (*self._services, *REFLECTIONS):
            raise RpcError(Code.UNIMPLEMENTED, f"unknown method {name} for service {service}")
        raise RpcError(Code.UNIMPLEMENTED, f"unknown service {service}")

    def _unary(self, method: str, work: Unary) -> UnaryHandler:
        name = method.rpartition("/")[2]

        async def handle(request: bytes, call: ServerCall) -> bytes:
            fault = self._faults.take(name)
            if fault:
                await self._before(fault, call)
            if method == CREATE:
                await asyncio.sleep(self._vms.create_delay_s())
            try:
                if fault and (answer := ANSWERS.get(fault.kind)):
                    if answer.accepted:
                        self._vms.create(request, heard=False)
                    raise HostVerdict(Code.UNKNOWN, answer.text)
                reply = work(request)
            except HostVerdict as verdict:
                raise RpcError(verdict.status, verdict.text) from verdict
            if fault:
                await self._after(fault, call)
            return reply

        return handle

    def _streamed(self, method: str, work: Streamed) -> StreamHandler:
        name = method.rpartition("/")[2]

        async def handle(call: ServerCall) -> None:
            fault = self._faults.take(name)
            if fault:
                await self._before(fault, call)
            try:
                async for reply in work(_messages(call)):
                    await call.write(reply)
            except HostVerdict as verdict:
                raise RpcError(verdict.status, verdict.text) from verdict
            if fault:
                await self._after(fault, call)

        return handle

    async def _before(self, fault: Fault, call: ServerCall) -> None:
        match fault.kind:
            case FaultKind.REFUSE:
                raise RpcError(fault.code, fault.text)
            case FaultKind.SLOW:
                await asyncio.sleep(fault.delay_s)
            case FaultKind.DIE:
                self._die(PANIC_EXIT)
            case FaultKind.CUT_BEFORE_ACCEPT:
                call.cut()
                await _for_ever()
            case FaultKind.HANG:
                await _for_ever()

    async def _after(self, fault: Fault, call: ServerCall) -> None:
        match fault.kind:
            case FaultKind.REFUSE_AFTER_ACCEPT:
                raise RpcError(fault.code, fault.text)
            case FaultKind.DIE_AFTER_ACCEPT:
                self._die(PANIC_EXIT)
            case FaultKind.CUT_AFTER_ACCEPT:
                call.cut()
                await _for_ever()
            case FaultKind.HANG_AFTER_ACCEPT:
                await _for_ever()


async def _messages(call: ServerCall) -> AsyncIterator[bytes]:
    while (message := await call.read()) is not None:
        yield message


def _first_only(work: Callable[[bytes], Iterator[bytes]]) -> Streamed:
    """Adapt a method with one request to a handler of streams."""

    async def handle(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        for reply in work(await anext(requests, b"")):
            yield reply

    return handle


async def _for_ever() -> None:
    # The handler is cancelled when the client gives up, its connection ends or the server stops.
    await asyncio.get_running_loop().create_future()
