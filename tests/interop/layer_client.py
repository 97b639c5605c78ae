"""Run the interop cases as a client of Billet's gRPC layer: `python -m tests.interop.layer_client HOST:PORT`.

Prints {"case": NAME, "why": ""} for each; "why" has the failure. BILLET_GRPC_ENGINE chooses the engine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from dataclasses import replace

from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.dial import Address
from billet.grpc.engine import new_channel
from billet.grpc.limits import KIB
from tests.interop.interop_cases import CASES, Client

LIMITS = replace(CLIENT_LIMITS, header_list_bytes=128 * KIB)
CASE_WITHIN_S = 30.0


async def main(address: str) -> None:
    """Run all cases, each on a connection of its own."""
    host, _, port = address.rpartition(":")
    for name, case in CASES.items():
        why = ""
        channel = new_channel(Address(host, int(port)), LIMITS)
        try:
            async with asyncio.timeout(CASE_WITHIN_S):
                await case(Client(channel))
        except (Exception, asyncio.CancelledError):
            why = traceback.format_exc()
        await channel.close()
        print(json.dumps({"case": name, "why": why}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
