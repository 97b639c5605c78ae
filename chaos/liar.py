"""A program that has the link token only, and claims in its hello to have obeyed an absurdly high term."""

from __future__ import annotations

import asyncio
import sys

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from billet.adapters.identity import KeyIdentity
from billet.core.model import Host, Resources
from billet.link.hello import put_hello, sign
from billet.wire.pb import link_pb2 as pb

ROOM = Resources(1000, 1 << 20, 1 << 20, 1000)
AGAIN_S = 0.5


class Liar(WSListener):
    """One connection to a server, which answers each challenge with the lie."""

    def __init__(self, name: str, term: int, identity: KeyIdentity) -> None:
        """`term` is what it claims."""
        self._hello = put_hello(Host(name, ROOM, ROOM), "0", "liar", term)
        self._identity = identity

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Say hello when challenged; ignore everything else."""
        if frame.msg_type != WSMsgType.BINARY:
            return
        down = pb.Down.FromString(frame.get_payload_as_bytes())
        if down.HasField("challenge"):
            sign(self._hello, self._identity, down.challenge.nonce)
            transport.send(WSMsgType.BINARY, pb.Up(hello=self._hello).SerializeToString())


async def main(token: str, name: str, term: str, *servers: str) -> None:
    """Lie to all of these servers, again whenever one hangs up."""
    identity = KeyIdentity.of_seed(name.encode().ljust(32, b"\0"), "liar", "liar")

    async def lie(server: str) -> None:
        while True:
            try:
                transport, _ = await ws_connect(
                    lambda: Liar(name, int(term), identity),
                    f"ws://{server}/agent?host={name}",
                    extra_headers={"Authorization": f"Bearer {token}"},
                )
                await transport.wait_disconnected()
            except Exception as error:  # a server that is down, cut off, or not the leader
                print(server, repr(error), file=sys.stderr)
            await asyncio.sleep(AGAIN_S)

    await asyncio.gather(*map(lie, servers))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
