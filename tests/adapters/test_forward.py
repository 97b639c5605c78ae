"""The way to a leader, once it has been closed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from billet.adapters.forward import LeaderForward
from billet.core.errors import LeaderLost
from billet.ports import Leader
from billet.wire.flintlock import GET, LIST_STREAM, with_uid
from billet.wire.tls import TlsSettings


async def messages() -> AsyncIterator[bytes]:
    yield b""


async def test_a_call_that_comes_after_the_change_of_leaders_has_lost_its_leader() -> None:
    """The front has chosen the old leader, and its connection was closed before the call began: no error of ours."""
    forward = LeaderForward(Leader("old", "127.0.0.1:1", ""), TlsSettings(insecure=True), "", ())
    await forward.close()
    with pytest.raises(LeaderLost):
        await forward.unary(GET, with_uid("01M875QGNXMP52TV8QXVRFTE6H"), 1.0, {})
    with pytest.raises(LeaderLost):
        async for _ in forward.stream(LIST_STREAM, messages(), 1.0, {}):
            pass
