"""Certificates and secrets are read again when their files change: whole or not at all, and without a restart."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from picows import WSListener
from structlog.testing import capture_logs

from billet.adapters.pki import Files, write_host, write_pki
from billet.core.errors import ConfigError
from billet.core.expiry import DAY_S, Urgency, urgency
from billet.grpc.dial import Address
from billet.grpc.engine import new_channel, new_server
from billet.grpc.interface import Channel, Routes, ServerCall
from billet.grpc.status import RpcError
from billet.link.dial import TokenRefused, WebSocketDial
from billet.link.server import LinkServer
from billet.reloading import Kept, Validity, Watch, read_validity, warn_of_expiry
from billet.wire import tls
from billet.wire.secret import FileText, Secret

METHOD = "/test/Echo"


@pytest.fixture
def old(tmp_path: Path) -> Files:
    return write_pki(tmp_path / "pki", ["127.0.0.1"], 1)


@pytest.fixture
def new(tmp_path: Path) -> Files:
    return write_pki(tmp_path / "new", ["127.0.0.1"], 1)


def replace(path: Path, content: bytes | str) -> None:
    """As programs that know how do it."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
    unfinished.rename(path)


def kept(files: Files, client_ca: str = "") -> Kept[ssl.SSLContext]:
    return tls.kept_server(str(files.server_cert), str(files.server_key), client_ca)


def client_files(files: Files, cert: bool = True) -> tls.ClientTls:
    pair = (str(files.client_cert), str(files.client_key)) if cert else ("", "")
    return tls.ClientTls(str(files.ca), *pair)


def test_a_pair_is_taken_once_both_of_its_files_are_new(old: Files, new: Files) -> None:
    """Broken on purpose (no check of the pair, or the stamp is kept after a failure): the certificate is in force
    with the old key, and every handshake fails; or the key that follows is never seen."""
    pair = kept(old)
    first = pair.value
    replace(old.server_cert, new.server_cert.read_bytes())
    with pytest.raises(ConfigError, match="are not a certificate and its key"):
        pair.look(at_once=True)
    assert pair.value is first
    replace(old.server_key, new.server_key.read_bytes())
    assert pair.look(at_once=True)
    assert pair.value is not first
    assert not pair.look(at_once=True)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(old: Files) -> None:
    """Broken on purpose (OpenSSL decides): it asks on the terminal and waits, or raises OSError."""
    key = serialization.load_pem_private_key(old.server_key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    pair = kept(old)
    replace(old.server_key, encrypted)
    with pytest.raises(ConfigError, match="without a passphrase"):
        pair.look(at_once=True)


def test_a_file_is_not_taken_while_it_is_still_written(tmp_path: Path) -> None:
    """Broken on purpose (taken at the first look): a secret of which the first half is written is in force."""
    path = tmp_path / "token"
    path.write_text("old")
    secret = Secret(FileText("old", str(path)))
    path.write_text("ne")
    assert not secret.kept.look(at_once=False)
    path.write_text("new\n")
    assert not secret.kept.look(at_once=False)
    assert secret.lines == ("old",)
    assert secret.kept.look(at_once=False)
    assert secret.lines == ("new",)


def test_links_that_are_swung_as_kubernetes_does_it_are_seen(tmp_path: Path, old: Files, new: Files) -> None:
    """Broken on purpose (lstat in place of stat): the files seem to be the same links as before."""
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "..data").symlink_to(old.server_cert.parent)
    for name in ("server.crt", "server.key"):
        (mount / name).symlink_to(Path("..data", name))
    pair = tls.kept_server(str(mount / "server.crt"), str(mount / "server.key"))
    (mount / "..data_tmp").symlink_to(new.server_cert.parent)
    (mount / "..data_tmp").rename(mount / "..data")
    assert pair.look(at_once=True)


@pytest.mark.parametrize(
    ("days_ago", "valid_days", "why"), [(10, 5, "expired on"), (-10, 20, "is valid only from"), (1, 20, "")]
)
def test_certificates_that_are_not_valid_today_are_not_taken(
    old: Files, new: Files, monkeypatch: pytest.MonkeyPatch, days_ago: int, valid_days: int, why: str
) -> None:
    """Broken on purpose (no check of the dates): the expired one is in force, and no client connects."""
    pair = kept(old)
    made_s = time.time() - days_ago * DAY_S
    monkeypatch.setattr("billet.reloading.read_validity", lambda _: Validity(made_s, made_s + valid_days * DAY_S))
    for one, other in ((old.server_cert, new.server_cert), (old.server_key, new.server_key)):
        replace(one, other.read_bytes())
    if why:
        with pytest.raises(ConfigError, match=why):
            pair.look(at_once=True)
    else:
        assert pair.look(at_once=True)


@pytest.mark.parametrize("content", ["", "\n", None])
def test_a_secret_that_is_emptied_or_deleted_stays_in_force(tmp_path: Path, content: str | None) -> None:
    """Broken on purpose (an empty file is taken): every caller is let in, because there is no secret any more."""
    path = tmp_path / "token"
    path.write_text("old")
    secret = Secret(FileText("old", str(path)))
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"is empty|cannot be read"):
        secret.kept.look(at_once=True)
    assert (secret.accepts("old"), secret.accepts("")) == (True, False)


def test_a_file_with_two_lines_is_two_secrets_and_the_one_that_works_is_shown_first(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("new\nold\n")
    secret = Secret(FileText("new\nold", str(path)))
    assert [secret.accepts(text) for text in ("new", "old", "new\nold", "")] == [True, True, False, False]
    assert secret.lines == ("new", "old")
    secret.worked("old")
    assert secret.lines == ("old", "new")
    path.write_text("new\n")
    assert secret.kept.look(at_once=True)
    assert (secret.shown, secret.accepts("old")) == ("new", False)


async def test_what_cannot_be_used_is_logged_once_and_the_rest_is_taken(tmp_path: Path) -> None:
    """Broken on purpose (one failure ends the look): the other file is not taken."""
    secrets = []
    for name in ("one", "two"):
        (tmp_path / name).write_text("old")
        secrets.append(Secret(FileText("old", str(tmp_path / name))))
    (tmp_path / "one").write_text("")
    (tmp_path / "two").write_text("new")
    watch = Watch()
    with capture_logs() as lines:
        for _ in range(4):
            await watch.look(at_once=False)
    assert [secret.lines for secret in secrets] == [("old",), ("new",)]
    ours = [line for line in lines if str(tmp_path) in f"{line.get('files')}{line.get('error')}"]
    assert sorted(line["log_level"] for line in ours) == ["error", "info"]


async def test_a_part_that_could_not_take_a_new_value_gets_it_again_and_the_others_get_theirs(tmp_path: Path) -> None:
    """Broken on purpose (a failure ends the look): a part has its old certificate until the next rotation."""
    told: dict[str, list[str]] = {"fails once": [], "takes": []}

    async def fails_once(value: str) -> None:
        told["fails once"].append(value)
        if len(told["fails once"]) == 1:
            raise OSError("too many open files")

    async def takes(value: str) -> None:
        told["takes"].append(value)

    def vanished() -> str:  # between two looks at the same file
        if path.read_text() == "new":
            raise FileNotFoundError(path)
        return ""

    path = tmp_path / "file"
    path.write_text("old")
    made = [Kept(path.read_text, [str(path)], changed=changed) for changed in (fails_once, takes)]
    made.append(Kept(vanished, [str(path)]))
    path.write_text("new")
    watch = Watch()
    await watch.look(at_once=True)
    await watch.look(at_once=True)
    await watch.look(at_once=True)
    assert told == {"fails once": ["new", "new"], "takes": ["new"]}


@pytest.mark.parametrize(
    ("days", "expected"),
    [(31, Urgency.NONE), (29, Urgency.SOON), (6, Urgency.NOW), (0.5, Urgency.LATE), (-1, Urgency.EXPIRED)],
)
def test_expiry_is_a_month_a_week_and_a_day_away(days: float, expected: Urgency) -> None:
    assert urgency(days * DAY_S) is expected


def test_certificates_that_expire_soon_are_logged_with_their_file() -> None:
    days = {"late": 0.5, "soon": 20.0, "fine": 300.0}
    with capture_logs() as lines:
        warn_of_expiry({name: Validity(0, left * DAY_S) for name, left in days.items()}, 0.0)
    assert [(line["file"], line["log_level"]) for line in lines] == [("late", "error"), ("soon", "warning")]


def test_a_chain_ends_with_its_first_and_a_bundle_of_cas_with_its_last(tmp_path: Path) -> None:
    """Broken on purpose (min for both): a bundle in which the old CA has expired is refused during its rotation."""
    short, long = (write_pki(tmp_path / str(days), ["127.0.0.1"], days) for days in (1, 300))
    ends = [read_validity(str(files.ca)).ends_s for files in (short, long)]
    bundle, chain = tmp_path / "bundle", tmp_path / "chain"
    bundle.write_bytes(short.ca.read_bytes() + long.ca.read_bytes())
    chain.write_bytes(long.server_cert.read_bytes() + short.ca.read_bytes())
    assert read_validity(str(bundle)).ends_s == ends[1]
    assert read_validity(str(chain)).ends_s == ends[0]


# The ports.


async def echo(request: bytes, call: ServerCall) -> bytes:
    return request


@asynccontextmanager
async def serving(files: Files) -> AsyncIterator[Address]:
    """A gRPC server that demands client certificates; the address as the old client sees it."""
    server = new_server(Routes(unary={METHOD: echo}))
    settings = tls.TlsSettings(False, str(files.server_cert), str(files.server_key), True, str(files.ca))
    port = await server.listen("127.0.0.1", 0, settings)
    yield Address("127.0.0.1", port, client_files(files))
    await server.stop(0)


async def works(channel: Channel) -> bool:
    try:
        return (await channel.unary(METHOD, b"x", timeout_s=10)).payload == b"x"
    except RpcError:
        return False


async def test_new_connections_get_the_new_certificates_and_old_ones_go_on(
    tmp_path: Path, old: Files, new: Files
) -> None:
    """The old CA is no longer trusted by anybody, on both sides; the connection that is open stays open.

    Broken on purpose (load_verify_locations on the live context): who has a certificate of the old CA still gets in.
    """
    former = write_copy(old, tmp_path / "former")
    async with serving(old) as address:
        stays, follows = new_channel(address), new_channel(address)
        assert await works(stays)
        for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key"):
            replace(old.ca.parent / name, (new.ca.parent / name).read_bytes())
        await Watch().look(at_once=True)
        assert await works(stays)
        assert await works(follows)  # it connects only now
        for files, welcome in ((client_files(former), False), (client_files(new), True)):
            one = new_channel(Address(address.host, address.port, files))
            assert await works(one) is welcome
            await one.close()
        await asyncio.gather(stays.close(), follows.close())


def write_copy(files: Files, folder: Path) -> Files:
    shutil.copytree(files.ca.parent, folder)
    return Files(*(folder / path.name for path in files))


async def test_the_link_takes_new_certificates_and_tokens(tmp_path: Path, old: Files, new: Files) -> None:
    """An agent with the old files, one with both and one with the new ones, while the server's are replaced.

    Broken on purpose (renew_tls does nothing): the last dial fails, for the server shows its old certificate.
    """
    both, token = tmp_path / "both.crt", tmp_path / "token"
    both.write_bytes(old.ca.read_bytes() + new.ca.read_bytes())
    token.write_text("old-token")
    cert, key = write_host(old.ca.parent, "h1", 1)
    server = LinkServer(FileText("old-token", str(token)), 0.1, 0.5, certificates=True)
    context = tls.kept_server(str(old.server_cert), str(old.server_key), str(old.ca))
    context.changed = server.renew_tls
    port = await server.listen("127.0.0.1", 0, context.value)

    def dial(ca: Path, token: str, *pair: Path) -> WebSocketDial:
        return WebSocketDial(token, tls.kept_client(str(ca), *map(str, pair)))

    async def dialled(by: WebSocketDial) -> WSListener:
        return await by(f"127.0.0.1:{port}", "/agent?host=h1", WSListener())  # type: ignore[return-value]

    during = dial(both, "new-token\nold-token", cert, key)
    opened = [await dialled(dial(old.ca, "old-token", cert, key)), await dialled(during)]
    replace(token, "new-token")
    new_cert, new_key = write_host(new.ca.parent, "h1", 1)
    for path, content in ((old.server_cert, new.server_cert), (old.server_key, new.server_key), (old.ca, both)):
        replace(path, content.read_bytes())
    await Watch().look(at_once=True)
    opened += [await dialled(during), await dialled(dial(new.ca, "new-token", new_cert, new_key))]
    with pytest.raises(TokenRefused):
        await dialled(dial(new.ca, "old-token", cert, key))
    assert all(one.underlying_transport and not one.underlying_transport.is_closing() for one in opened)  # type: ignore[attr-defined]
    for one in opened:
        one.disconnect()  # type: ignore[attr-defined]
    await server.close()
