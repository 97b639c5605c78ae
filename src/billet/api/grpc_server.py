"""The gRPC server for clients: Flintlock's service, Fleet, reflection and health. Passes bytes to a Backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import structlog

from billet.api import fleet_service as fleet
from billet.api.authentication import NOBODY, Authenticator
from billet.closing import closing
from billet.core.errors import BilletError, Cancelled, Code, LeaderLost
from billet.core.metadata import ReplyMetadata
from billet.grpc import health
from billet.grpc.engine import new_server
from billet.grpc.interface import Routes, ServerCall
from billet.grpc.limits import Limits
from billet.grpc.reflection import Reflection
from billet.grpc.status import RpcError
from billet.ports import Backend
from billet.settings import split_endpoint
from billet.wire import flintlock as wire
from billet.wire import newer, tls
from billet.wire.headers import ANSWERED, FORWARDED, FROM, IDENTITY, INTERNAL, ZONE
from billet.wire.metadata import CHANNEL_BYTES, CallMetadata
from billet.wire.pb import fleet_pb2, flintlock_exec_pb2, flintlock_pb2, flintlock_ssh_pb2

log = structlog.get_logger()

UNARY = frozenset(
    {
        wire.CREATE,
        wire.DELETE,
        wire.GET,
        wire.LIST,
        newer.SERVER_INFO,
        fleet.HOSTS,
        fleet.STATUS,
        fleet.PLACEMENTS,
        fleet.EXPLAIN,
        fleet.RECORDS,
        fleet.ACCURACY,
        fleet.CAPACITY,
        fleet.EVENTS,
        fleet.CHANGE_HOST,
        fleet.CREATE_CREDENTIAL,
        fleet.CREDENTIALS,
        fleet.REVOKE_CREDENTIAL,
    }
)
CREDENTIAL_CHANGES = frozenset({fleet.CREATE_CREDENTIAL, fleet.REVOKE_CREDENTIAL})
Refused = Callable[[str, str, int], None]  # (method, the client's address, code)
FOREVER_S = 1e6  # a call without a deadline
SERVICES = [
    flintlock_pb2.DESCRIPTOR.services_by_name["MicroVM"].full_name,
    flintlock_exec_pb2.DESCRIPTOR.services_by_name["MicroVMExec"].full_name,
    flintlock_ssh_pb2.DESCRIPTOR.services_by_name["MicroVMSSHProxy"].full_name,
    fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name,
    health.SERVICE,
]


class GrpcServer:
    """One listening gRPC server in front of a Backend.

    `callers` knows who calls. `is_server` decides by its secret whether another server calls.
    `zone`, unless "", is the zone that creates through this address are constrained to. `refused` hears of calls
    that were not let in.
    """

    def __init__(
        self,
        backend: Backend,
        callers: Authenticator,
        is_server: Callable[[str], bool],
        zone: str = "",
        refused: Refused = lambda method, address, code: None,
    ) -> None:
        self._backend = backend
        self._callers = callers
        self._is_server = is_server
        self._refused = refused
        self._zone = {ZONE: zone} if zone else {}
        self._health = health.Health()
        self._server = new_server(
            Routes(
                unary={**dict.fromkeys(UNARY, self._unary), **self._health.unary},
                streams={**self._health.streams, **Reflection(SERVICES).streams},
                fallback=self._stream,
                admit=self._admit,
                small=health.METHODS,
            ),
            Limits(header_list_bytes=CHANNEL_BYTES),
        )

    async def listen(self, endpoint: str, settings: tls.TlsSettings) -> int:
        """Start serving; returns the port. Raises OSError or RuntimeError if the port is in use, and ConfigError."""
        host, port = split_endpoint(endpoint)
        return await self._server.listen(host, port, settings)

    def serving(self, yes: bool) -> None:
        """Set the gRPC health status to SERVING or NOT_SERVING."""
        for service in ("", wire.SERVICE):
            self._health.set(service, yes)

    async def stop(self, grace_s: float) -> None:
        """Reject new calls and wait up to `grace_s` for calls in flight, except for health watches."""
        self._health.close()
        await self._server.stop(grace_s)

    def _admit(self, call: ServerCall) -> str:
        """Name the caller, or refuse the call. Load balancers ask for health without being known.

        Of a call that another server has forwarded, that server has checked the credential.
        """
        if call.method in health.METHODS:
            return NOBODY
        texts = {key: value for key, value in call.metadata if isinstance(value, str)}
        if FORWARDED in texts and self._is_server(texts[FORWARDED]):
            return texts.get(IDENTITY, NOBODY)
        try:
            return self._callers.identify(texts.get("authorization"), call.certificate)
        except BilletError as error:
            self._refused(call.method, call.peer, error.status)
            raise RpcError(error.status, error.text) from None

    def _metadata(self, call: ServerCall) -> dict[str, str]:
        """The call's metadata. Headers reserved for servers are dropped unless another server calls.

        Raises LeaderLost for a server that knows another secret: it forwards the call to whoever leads next. As a
        client's call it might be carried out twice.
        """
        pairs = call.metadata
        texts = {key: value for key, value in pairs if isinstance(value, str)}
        if FORWARDED not in texts:
            texts = {key: value for key, value in texts.items() if key not in INTERNAL}
            texts |= {**self._zone, IDENTITY: call.identity, FROM: call.peer}
        elif not self._is_server(texts[FORWARDED]):
            raise LeaderLost("the call was forwarded with a secret that is not this leader's")
        return CallMetadata(texts, pairs)

    async def _unary(self, request: bytes, call: ServerCall) -> bytes:
        left_s = call.time_left_s()
        try:
            answer = await self._backend.unary(
                call.method, request, FOREVER_S if left_s is None else left_s, self._metadata(call)
            )
        except Exception as error:
            raise _rpc_error(call.method, error) from error
        if call.method in CREDENTIAL_CHANGES:
            await self._callers.read()  # so that the next call to this server knows of it
        if answer.headers:
            call.start(answer.headers)
        call.trailers = answer.trailers
        return answer.payload

    async def _stream(self, call: ServerCall) -> None:
        told = ReplyMetadata()
        left_s = call.time_left_s()
        try:
            metadata = self._metadata(call)
            async with closing(self._backend.stream(call.method, _requests(call), left_s, metadata, told)) as replies:
                async for reply in replies:
                    call.start(told.headers)
                    await call.write(reply)
        except Exception as error:
            raise _rpc_error(call.method, error) from error
        call.start(told.headers)
        call.trailers = told.trailers


async def _requests(call: ServerCall) -> AsyncIterator[bytes]:
    """A call's messages. Raises Cancelled if the client gives the call up: that is not their end."""
    try:
        while (message := await call.read()) is not None:
            yield message
    except RpcError as error:
        raise Cancelled(error.text) from None


def _rpc_error(method: str, error: Exception) -> RpcError:
    """The error's code and text for the client. An unexpected error is logged; the client gets a generic text."""
    match error:
        case RpcError():
            return error
        case BilletError():
            code, text = error.status, error.text
        case _:
            log.exception("unexpected error", method=method, exc_info=error)
            code, text = Code.INTERNAL, "internal error; see the server's log"
    answered = () if isinstance(error, LeaderLost) else ((ANSWERED, "1"),)
    trailers = error.trailers if isinstance(error, BilletError) else ()
    return RpcError(code, text, (*trailers, *answered))
