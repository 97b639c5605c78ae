"""Hellos over real sockets: challenge, signature, certificates, and what a hello may not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from billet.adapters.identity import KeyIdentity
from billet.adapters.pki import write_host, write_pki
from billet.core.columns import Columns
from billet.core.identity import Claim, Waiting
from billet.core.model import Host, Resources
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.leader.leadership import LinkTerm
from billet.link import outbox
from billet.link.hello import get_claim, proves, put_hello, sign
from billet.link.outbox import Inbox
from billet.link.server import LinkServer
from billet.wire import tls
from billet.wire.pb import link_pb2 as pb
from tests.cluster.clients import eventually

ROOM = Resources(8, 16384, 100_000, 10)
HOST = Host("h1", ROOM, ROOM)
ME = KeyIdentity.of_seed(bytes(32), "machine", "boot")
OTHER = KeyIdentity.of_seed(bytes([1]) * 32, "machine", "boot")
NONCE = b"n" * 32


def signed(identity: KeyIdentity = ME, nonce: bytes = NONCE, host: Host = HOST, term: int = 0) -> pb.Hello:
    hello = put_hello(host, "test", "one", term)
    sign(hello, identity, nonce)
    return hello


def test_a_signature_is_for_one_challenge_key_and_name() -> None:
    assert proves(signed(), NONCE)
    assert not proves(signed(), b"m" * 32)
    for change in (
        {"public_key": OTHER.public_key},
        {"host": "h2"},
        {"instance": "two"},
        {"machine_id": "other"},
        {"boot_id": "other"},
        {"signature": b""},
        {"public_key": b"short"},
    ):
        hello = signed()
        for name, value in change.items():
            setattr(hello, name, value)
        assert not proves(hello, NONCE), change


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda hello: setattr(hello, "host", ""), "empty"),
        (lambda hello: setattr(hello, "host", "h\n[red]\x1b[31mX"), "cannot be printed"),
        (lambda hello: setattr(hello, "host", "h" * 257), "256 are allowed"),
        (lambda hello: setattr(hello, "zone", "\u202ez"), "cannot be printed"),
        (lambda hello: setattr(hello.capacity, "vcpu", -5), "vcpu is -5"),
        (lambda hello: setattr(hello.allocatable, "memory_mib", 2**63 - 1), "memory_mib"),
        (lambda hello: setattr(hello, "term", 2**62), "term is"),
        (lambda hello: setattr(hello, "term", 2**64 - 1), "term is"),
        (lambda hello: hello.labels.update({f"k{n}": "" for n in range(65)}), "64 are allowed"),
        (lambda hello: hello.labels.update({"k": "v" * 5000}), "too long"),
        (lambda hello: hello.labels.update({"k": "\x1b[2J"}), "cannot be printed"),
    ],
)
def test_what_no_host_can_say_is_refused_with_the_reason(spoil: Callable[[pb.Hello], None], why: str) -> None:
    hello = put_hello(HOST, "test", "one", 0)
    spoil(hello)
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        get_claim(hello, NONCE, "1.2.3.4:5")


def test_a_certificate_names_the_host() -> None:
    assert get_claim(signed(), NONCE, "", frozenset({"h1", "other"})).host.id == "h1"
    with pytest.raises(ValueError, match="run `billet certs host h1`"):
        get_claim(signed(), NONCE, "", frozenset({"h2"}))


class Program(WSListener):
    """The agent's end of a connection: says these hellos once it is challenged."""

    def __init__(self, *hellos: Callable[[bytes], pb.Hello]) -> None:
        self.nonces: list[bytes] = []
        self.goodbye = ""
        self.standbys = 0
        self.closed = False
        self._hellos = hellos

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            down = pb.Down.FromString(frame.get_payload_as_bytes())
            self.goodbye = down.goodbye.why or self.goodbye
            self.standbys += down.HasField("standby")
            if down.HasField("challenge"):
                self.nonces.append(down.challenge.nonce)
                for hello in self._hellos:
                    up = pb.Up(hello=hello(down.challenge.nonce))
                    transport.send(WSMsgType.BINARY, up.SerializeToString())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed = True


@pytest.fixture
async def server() -> AsyncIterator[tuple[LinkServer, int]]:
    link = LinkServer("", 0.1, 0.5)
    yield link, await link.listen("127.0.0.1", 0, None)
    await link.close()


async def dial(port: int, program: Program) -> Program:
    await ws_connect(lambda: program, f"ws://127.0.0.1:{port}/agent")
    return program


async def test_a_recorded_hello_is_worth_nothing(server: tuple[LinkServer, int]) -> None:
    link, port = server
    thief = await dial(port, Program(lambda nonce: signed()))
    await eventually(lambda: thief.closed)
    assert "signature" in thief.goodbye
    honest = await dial(port, Program(lambda nonce: signed(nonce=nonce)))
    await eventually(lambda: link.instance("h1") == "one")
    assert len(honest.nonces[0]) == 32
    assert honest.nonces != thief.nonces


@pytest.mark.parametrize(
    "second",
    [
        lambda nonce: signed(nonce=nonce, host=Host("h2", ROOM, ROOM)),
        lambda nonce: signed(OTHER, nonce),
        lambda nonce: put_hello(HOST, "test", "two", 0),
    ],
    ids=["another name", "another key", "another process"],
)
async def test_a_second_hello_of_another_agent_ends_the_connection(
    server: tuple[LinkServer, int], second: Callable[[bytes], pb.Hello]
) -> None:
    link, port = server
    program = await dial(port, Program(lambda nonce: signed(nonce=nonce), second))
    await eventually(lambda: program.closed)
    assert "one connection says hello for one agent only" in program.goodbye
    assert (link.instance("h1"), link.instance("h2")) == ("", "")


async def test_a_second_hello_with_a_newer_term_is_fine(server: tuple[LinkServer, int]) -> None:
    link, port = server
    program = await dial(port, Program(lambda nonce: signed(nonce=nonce), lambda nonce: signed(nonce=nonce, term=7)))
    await eventually(lambda: link.instance("h1"))
    await asyncio.sleep(0.2)
    assert not program.closed


async def test_agents_with_other_keys_wait_at_a_server_that_does_not_lead(server: tuple[LinkServer, int]) -> None:
    """It cannot know which of them is right. When the first one leaves, the second holds the name."""
    link, port = server
    first = Program(lambda nonce: signed(nonce=nonce))
    transport, _ = await ws_connect(lambda: first, f"ws://127.0.0.1:{port}/agent")
    await eventually(lambda: link.instance("h1") == "one")

    def other(nonce: bytes) -> pb.Hello:
        hello = put_hello(HOST, "test", "two", 0)
        sign(hello, OTHER, nonce)
        return hello

    second = await dial(port, Program(other))
    await asyncio.sleep(0.2)
    assert not second.closed
    assert link.instance("h1") == "one"
    transport.disconnect()
    await eventually(lambda: link.instance("h1") == "two")


async def test_a_stranger_does_not_hold_a_name_after_the_term(server: tuple[LinkServer, int]) -> None:
    """While nobody leads, reads are answered by the hosts of this server's last term. Broken on purpose (the first
    one to come holds the name): a stranger says that the host's microVMs are "not found" (promise 5)."""
    link, port = server
    gate = Bouncer()
    gate.known_key = get_claim(signed(), NONCE, "").host.key
    link.begin(LinkTerm(1, DEFAULT_WEIGHTS, gate, Columns(), 0.0))  # type: ignore[arg-type]
    link.end("the term has ended")
    stranger = await dial(port, Program(lambda nonce: signed(OTHER, nonce)))
    await eventually(lambda: stranger.standbys)
    assert link.instance("h1") == ""
    await dial(port, Program(lambda nonce: signed(nonce=nonce)))
    await eventually(lambda: link.instance("h1") == "one")


async def test_an_agent_that_waits_and_dials_again_still_waits(server: tuple[LinkServer, int]) -> None:
    """Its old connection is dead, and the server notices that later. Broken on purpose (the old one is kept): its end
    takes the agent off the leader's list, so that no operator can admit it."""
    link, port = server
    gate = Bouncer()
    link.begin(LinkTerm(1, DEFAULT_WEIGHTS, gate, Columns(), 0.0))  # type: ignore[arg-type]
    programs = [Program(lambda nonce: signed(nonce=nonce)) for _ in range(2)]
    transports = []
    for n, program in enumerate(programs):
        transports.append((await ws_connect(lambda: program, f"ws://127.0.0.1:{port}/agent"))[0])  # noqa: B023
        await eventually(lambda n=n: gate.heard.count("hello") == n + 1)
    transports[0].disconnect()
    await eventually(lambda: programs[0].closed)
    later = Program()
    transports.append((await ws_connect(lambda: later, f"ws://127.0.0.1:{port}/agent"))[0])
    await eventually(lambda: later.nonces)  # the server has noticed the end before this beginning
    assert gate.heard == ["hello", "left", "hello"]
    link.regreet("h1")
    assert gate.heard[3:] == ["hello"]
    for transport in transports[1:]:
        transport.disconnect()


class Bouncer:
    """ports.Gate that lets every agent wait."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.known_key = ""

    def greet(self, claim: Claim, taken: str = "") -> Waiting:
        self.heard.append("hello")
        return Waiting("for an operator")

    def vouches(self, claim: Claim) -> bool:
        return claim.host.key == self.known_key

    def left(self, host_id: str, instance: str) -> None:
        self.heard.append("left")


def frame(payload: bytes, fin: bool) -> Any:
    return SimpleNamespace(fin=fin, get_payload_as_bytes=lambda: payload)


def test_a_message_of_many_small_frames_is_joined_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose (all parts are added up for each frame): this takes minutes of the leader's time."""
    inbox = Inbox()
    for _ in range(100_000):
        assert inbox.whole(frame(b"x", False)) is None
    assert inbox.whole(frame(b"y", True)) == b"x" * 100_000 + b"y"
    assert inbox.whole(frame(b"next", True)) == b"next"
    monkeypatch.setattr(outbox, "MAX_MESSAGE_BYTES", 3)
    assert inbox.whole(frame(b"abc", False)) is None
    with pytest.raises(ValueError, match="a message of more than"):
        inbox.whole(frame(b"d", False))


async def test_with_client_certificates_the_name_is_in_the_certificate(tmp_path: Path) -> None:
    pki = write_pki(tmp_path, ["127.0.0.1"], days=1)
    cert, key = write_host(tmp_path, "h1", 1)
    link = LinkServer("", 0.1, 0.5, certificates=True)
    context = tls.server_context(str(pki.server_cert), str(pki.server_key), str(pki.ca))
    port = await link.listen("127.0.0.1", 0, context)
    try:
        with_cert = tls.client_context(str(pki.ca), str(cert), str(key))
        programs = {}
        for name in ("h2", "h1"):
            program = programs[name] = Program(
                lambda nonce, name=name: put_hello(Host(name, ROOM, ROOM), "x", name, 0)
            )
            await ws_connect(lambda: program, f"wss://127.0.0.1:{port}/agent", ssl_context=with_cert)  # noqa: B023
        await eventually(lambda: link.instance("h1") == "h1")
        await eventually(lambda: programs["h2"].closed)
        assert "the certificate is for h1, not for host 'h2'" in programs["h2"].goodbye
        without = Program(lambda nonce: put_hello(HOST, "x", "three", 0))
        transport, _ = await ws_connect(
            lambda: without, f"wss://127.0.0.1:{port}/agent", ssl_context=tls.client_context(str(pki.ca))
        )
        await asyncio.wait_for(transport.wait_disconnected(), 60)  # the server has ended the TLS handshake
        assert not without.nonces
    finally:
        await link.close()
