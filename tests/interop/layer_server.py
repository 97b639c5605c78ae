"""Serve grpc-go's interop TestService on Billet's gRPC layer: `python -m tests.interop.layer_server`.

Prints {"grpc": ADDRESS}. SIGTERM ends it gracefully. BILLET_GRPC_ENGINE chooses the engine.
"""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace

from billet.grpc.engine import new_server
from billet.grpc.limits import KIB, MIB, Limits
from billet.wire.tls import TlsSettings
from tests.interop.interop_service import ROUTES

LIMITS = replace(Limits(), message_bytes=17 * MIB, header_list_bytes=128 * KIB, held_bytes=64 * MIB)
GRACE_S = 30.0


async def main() -> None:
    """Serve until SIGTERM."""
    server = new_server(ROUTES, LIMITS)
    port = await server.listen("127.0.0.1", 0, TlsSettings(insecure=True))
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(GRACE_S)


if __name__ == "__main__":
    asyncio.run(main())
