"""The two ends of the link over real sockets: what is logged when one refuses the other."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from billet.adapters.flintlock import GrpcFlintlock
from billet.adapters.pki import write_pki
from billet.core.model import Facts, Host, Image, Resources
from billet.core.report import HostImages, Report
from billet.host.agent import Agent, Measured
from billet.link import messages
from billet.link.agent import AgentDialler, AgentLink
from billet.link.dial import WebSocketDial
from billet.link.server import LinkServer
from billet.log_throttle import AGAIN_AFTER_S, LogThrottle
from billet.process import SystemClock
from billet.reloading import Kept
from billet.wire import flintlock, tls

TRIES = 4
ROOM = Resources(8, 16384, 100_000, 10)


class CountingDial(WebSocketDial):
    """Sets `often` once it has dialled more than TRIES times."""

    def __init__(self, token: str, context: Kept[ssl.SSLContext] | None) -> None:
        super().__init__(token, context)
        self.often = asyncio.Event()
        self.tries = 0

    async def __call__(self, *arguments: Any) -> Any:
        self.tries += 1
        if self.tries > TRIES:
            self.often.set()
        return await super().__call__(*arguments)


@asynccontextmanager
async def dialling(
    port: int, instance: str, context: Kept[ssl.SSLContext] | None = None, token: str = ""
) -> AsyncIterator[CountingDial]:
    """Run an agent's dialler, without a flintlockd."""
    daemon = GrpcFlintlock("127.0.0.1:1")
    agent = Agent(
        Host("h1", ROOM, ROOM), daemon, flintlock, lambda: Measured(0, 0, 0, 0), SystemClock(), 1.0, instance
    )
    dial = CountingDial(token, context)
    running = asyncio.create_task(AgentDialler(agent, daemon, [f"127.0.0.1:{port}"], dial, "test").run())
    yield dial
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await daemon.close()


@asynccontextmanager
async def listening(context: ssl.SSLContext | None, token: str = "") -> AsyncIterator[tuple[LinkServer, int]]:
    server = LinkServer(token, 0.1, 0.5)
    yield server, await server.listen("127.0.0.1", 0, context)
    await server.close()


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    files = write_pki(tmp_path / "pki", ["127.0.0.1"], days=1)
    return tls.server_context(str(files.server_cert), str(files.server_key))


@pytest.fixture
def other_ca(tmp_path: Path) -> Kept[ssl.SSLContext]:
    return tls.kept_client(str(write_pki(tmp_path / "other", ["127.0.0.1"], days=1).ca))


async def lines_after_many_tries(
    server: ssl.SSLContext | None, agent: Kept[ssl.SSLContext] | None, tokens: tuple[str, str] = ("", "")
) -> tuple[list[Any], list[str]]:
    """The warnings of the server and of the agent."""
    with capture_logs() as lines:
        async with (
            listening(server, tokens[0]) as (_, port),
            dialling(port, "one", agent, tokens[1]) as dial,
            asyncio.timeout(30.0),
        ):
            await dial.often.wait()
    warned = [line for line in lines if line["log_level"] in ("warning", "error")]
    said = [line["error"] for line in warned if "server" in line]
    return [line["event"] for line in warned if "server" not in line], said


async def test_an_agent_without_tls_is_one_line_on_each_side(context: ssl.SSLContext) -> None:
    at_server, at_agent = await lines_after_many_tries(context, None)
    assert len(at_agent) == 1
    assert "give --link-ca" in at_agent[0]
    assert len(at_server) == 1
    assert "give it --link-ca" in at_server[0]


async def test_an_agent_with_another_ca_is_one_line_on_each_side(
    context: ssl.SSLContext, other_ca: Kept[ssl.SSLContext]
) -> None:
    at_server, at_agent = await lines_after_many_tries(context, other_ca)
    assert len(at_agent) == 1
    assert "is not signed by --link-ca" in at_agent[0]
    assert len(at_server) == 1


async def test_a_wrong_token_is_one_line_at_the_agent() -> None:
    _, at_agent = await lines_after_many_tries(None, None, ("right", "wrong"))
    assert len(at_agent) == 1
    assert "give the agent the server's --link-token" in at_agent[0]


async def test_a_second_agent_with_the_same_id_logs_once_where_the_first_one_is() -> None:
    with capture_logs() as lines:
        async with listening(None) as (server, port), dialling(port, "first"), asyncio.timeout(30.0):
            while not server.instance("h1"):
                await server.arrivals.wait()
            async with dialling(port, "second") as second:
                await second.often.wait()
            assert server.instance("h1") == "first"
    refusals = [line for line in lines if line["log_level"] == "error"]
    assert len(refusals) == 1
    text = r"another agent is connected as host 'h1', from (127\.0\.0\.1:\d+): give each host its own --id"
    found = re.search(text, refusals[0]["why"])
    assert found
    assert len([line for line in lines if line["event"] == "agent refused" and found[1] in line["why"]]) == 1


def test_a_message_is_logged_again_when_it_is_new_or_a_minute_old() -> None:
    throttle = LogThrottle()
    assert throttle.should_log("a", "connection refused", 0.0)
    assert not throttle.should_log("a", "connection refused", AGAIN_AFTER_S - 1)
    assert throttle.should_log("b", "connection refused", 1.0)
    assert throttle.should_log("a", "connection refused", AGAIN_AFTER_S)
    assert throttle.should_log("a", "wrong token", AGAIN_AFTER_S + 1)
    throttle.recovered("a")
    assert throttle.should_log("a", "wrong token", AGAIN_AFTER_S + 2)


def test_a_leader_is_told_the_images_once_and_again_when_they_change() -> None:
    """Broken on purpose (told with every report): a host with 500 images sends 30 kB each second."""
    link, sent = AgentLink(cast("AgentDialler", None), "s1"), []
    link.put = lambda message: sent.append(messages.get_report(message.report).at_hand)  # type: ignore[method-assign]
    first, second = (HostImages(frozenset({Image(ref)}), frozenset()) for ref in ("ubuntu:22.04", "ubuntu:24.04"))
    for at_hand in (None, first, first, None, second, second):
        link.report(Report(Facts(), 0.0, 0, 0, 0, 0, True, 1.0, at_hand=at_hand))
    assert sent == [None, first, None, None, second, None]
