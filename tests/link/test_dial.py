"""Names of servers: what DNS is asked for, and what a certificate must say."""

import asyncio
import socket
from pathlib import Path

import pytest
from picows import WSListener

from billet.adapters.pki import write_pki
from billet.link.dial import WebSocketDial
from billet.link.server import LinkServer
from billet.wire import tls


@pytest.mark.parametrize("name", ["billet.test", "billet.test.", "BILLET.test."])
@pytest.mark.parametrize("issued_for", ["billet.test", "billet.test."])
async def test_an_absolute_name_is_looked_up_as_it_is_and_checked_without_its_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, issued_for: str
) -> None:
    """Broken on purpose (the dot stays in the check): no certificate is valid for the name, and no agent connects."""
    files = write_pki(tmp_path / "pki", [issued_for], days=1)
    server = LinkServer("", 0.1, 0.5)
    port = await server.listen("127.0.0.1", 0, tls.server_context(str(files.server_cert), str(files.server_key)))
    asked: list[str] = []

    async def resolve(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    opened = await WebSocketDial("", tls.kept_client(str(files.ca)))(f"{name}:{port}", "/", WSListener())
    assert asked == [name.lower()]
    opened.disconnect()  # type: ignore[attr-defined]
    await server.close()
