"""What an agent makes of the ways in which a call to flintlockd can end."""

from __future__ import annotations

import pytest

from billet.adapters.flintlock import GrpcFlintlock
from billet.core.errors import Code
from billet.grpc.interface import Routes
from billet.grpc.server import Server
from billet.grpc.server_connection import ServerCall
from billet.grpc.status import RpcError
from billet.wire.flintlock import CREATE
from billet.wire.tls import TlsSettings

TIMEOUT_S = 30.0


@pytest.mark.parametrize("h2_code", [0x0, 0x1, 0x2, 0x7, 0x8, 0xB, 0xC])
async def test_promise_4_a_call_that_flintlockd_did_not_answer_is_never_taken_for_its_no(h2_code: int) -> None:
    """Broken on purpose (a reset's own code is passed on): 0xB is RESOURCE_EXHAUSTED, as if nothing was created."""

    async def reset(request: bytes, call: ServerCall) -> bytes:
        call.connection.reset(call.id, h2_code)
        return b"never sent"

    async def no(request: bytes, call: ServerCall) -> bytes:
        raise RpcError(Code.RESOURCE_EXHAUSTED, "flintlockd's own no", (("grpc-status-details-bin", b"why"),))

    server = Server(Routes({CREATE: reset, "/No": no}))  # type: ignore[dict-item]
    port = await server.listen("127.0.0.1", 0, TlsSettings(insecure=True))
    flintlock = GrpcFlintlock(f"127.0.0.1:{port}")
    assert (await flintlock.call(CREATE, b"", TIMEOUT_S)).code == Code.UNAVAILABLE
    answered = await flintlock.call("/No", b"", TIMEOUT_S)
    assert (answered.code, answered.text) == (Code.RESOURCE_EXHAUSTED, "flintlockd's own no")
    assert answered.trailers == (("grpc-status-details-bin", b"why"),)
    await flintlock.close()
    await server.stop(0)
