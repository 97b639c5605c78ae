"""What a server does on its agents' port when it has no file descriptors left."""

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from picows import WSListener
from structlog.testing import capture_logs

from billet.link.dial import WebSocketDial
from billet.link.server import LinkServer

SHORTAGE_S = 2.5


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No descriptor is left once the test has opened some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def forbid_more() -> None:
    """Set the limit to the descriptors that are open now."""
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_without_descriptors_waits_and_says_so_once(few_descriptors: None, factory: object) -> None:
    """Broken on purpose (plain sockets): accept() is called without a pause, and each call is a traceback."""
    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(shortage())


async def shortage() -> None:
    server = LinkServer("", 0.1, 0.5)
    port = await server.listen("127.0.0.1", 0, None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as open_files, capture_logs() as lines:
        waiting = [open_files.enter_context(socket.socket()) for _ in range(3)]
        with suppress(OSError):  # fill the gaps below the highest descriptor
            forbid_more()
            while True:
                open_files.enter_context(socket.socket())
        for one in waiting:
            one.connect(("127.0.0.1", port))
        errors = counted_errors()
        await asyncio.sleep(SHORTAGE_S)
        assert 1 <= len(errors) <= SHORTAGE_S + 1, "one try a second"
        [line] = [line for line in lines if line["log_level"] == "error"]
        assert "raise the limit of open files" in line["event"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    async with asyncio.timeout(30.0):
        opened = await WebSocketDial("", None)(f"127.0.0.1:{port}", "/", WSListener())
    opened.disconnect()  # type: ignore[attr-defined]
    await server.close()


def counted_errors() -> list[str]:
    """The errors that the running loop's handler is given from now on."""
    loop, errors = asyncio.get_running_loop(), []
    before = loop.get_exception_handler()
    assert before

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        errors.append(context["message"])
        before(loop, context)

    loop.set_exception_handler(handle)
    return errors
