"""What the fake and Billet's own API share: Basic auth, the gateway's JSON, TLS settings."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.errors import BilletError, ConfigError, HostVerdict, InvalidRequest, NoRoom, Unreachable
from billet.wire import gateway
from billet.wire.auth import NO_TOKEN, WRONG_TOKEN, basic_header, check_basic
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.tls import TlsSettings, client_context, server_context
from tests.conformance.pki import Pki


@given(st.text(min_size=1, max_size=40))
def test_the_header_of_a_token_is_accepted(token: str) -> None:
    assert check_basic(basic_header(token), token) is None
    assert check_basic("BASIC " + basic_header(token).split()[1], token) is None
    assert check_basic(basic_header(token + "x"), token) == WRONG_TOKEN
    assert check_basic(f"Basic {b64encode(f'user:{token}'.encode()).decode()}", token) == WRONG_TOKEN


@pytest.mark.parametrize("header", [None, "", "Bearer x", "Digest y", "x"])
def test_no_basic_header(header: str | None) -> None:
    assert check_basic(header, "token") == NO_TOKEN
    assert check_basic(header, "") is None


def test_unpopulated_fields_are_written_as_go_writes_them() -> None:
    vm = types.MicroVM(spec=types.MicroVMSpec(interfaces=[types.NetworkInterface()]))
    vm.status.volumes["root"].SetInParent()
    document = gateway.to_json(vm)
    assert document["version"] == 0
    spec, status = document["spec"], document["status"]
    assert (spec["kernel"], spec["createdAt"], spec["labels"], spec["additionalVolumes"]) == (None, None, {}, [])
    assert not {"uid", "provider", "initrd"} & spec.keys()
    assert spec["interfaces"] == [{"deviceId": "", "type": "MACVTAP"}]
    assert (status["state"], status["volumes"]) == ("PENDING", {"root": {"mount": None}})


@given(st.binary(max_size=60))
def test_a_body_is_read_or_refused(body: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(gateway.create_request(body), bytes)


def test_an_empty_body_and_braces_are_an_empty_spec() -> None:
    for body in (b"", b"{}"):
        assert rpc.CreateMicroVMRequest.FromString(gateway.create_request(body)).HasField("microvm")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("x"), 400),
        (NoRoom("x"), 429),
        (Unreachable("x"), 503),
        (HostVerdict(2, "x"), 500),
        (HostVerdict(4, "x"), 504),
        (HostVerdict(12, "x"), 501),
        (HostVerdict(16, "x"), 401),
    ],
)
def test_codes_over_http(error: BilletError, status: int) -> None:
    assert gateway.error_response(error).status_code == status


async def test_an_error_within_a_stream_is_its_last_line() -> None:
    async def replies(method: str, request: bytes, authorization: str | None) -> AsyncIterator[bytes]:
        yield rpc.ListMessage(microvm=types.MicroVM(version=1)).SerializeToString()
        await asyncio.sleep(0)
        raise Unreachable("host-1 does not answer")

    response = await gateway.stream_response(replies("", b"", None))
    lines = [line async for line in response.body_iterator]
    assert response.status_code == 200
    assert [line.split(b":")[0] for line in lines] == [b'{"result"', b'{"error"']
    assert b"host-1 does not answer" in lines[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TlsSettings(), "--insecure"),
        (TlsSettings(insecure=True, cert="c"), "exclude"),
        (TlsSettings(insecure=True, client_validate=True), "exclude"),
        (TlsSettings(cert="c"), "without --tls-key"),
        (TlsSettings(key="k"), "without --tls-cert"),
        (TlsSettings(cert="c", key="k", client_validate=True), "--tls-client-ca"),
    ],
)
def test_tls_settings_that_contradict_each_other(settings: TlsSettings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings.check()


def test_credentials_are_refused_where_grpc_was_loaded_too_early() -> None:
    """The TLS 1.2 suites are read while gRPC is imported; weak credentials would go unnoticed."""
    early = "import grpc, billet.wire.tls as tls; tls.channel_credentials()"
    for program, code in ((early, 1), (early.replace("grpc, ", "") + "; import grpc", 0)):
        done = subprocess.run(
            [sys.executable, "-c", program], env={"PATH": ""}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
        assert ("loaded before billet.wire.tls" in done.stderr) == bool(code)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    for cert, key, ca, words in [
        (str(tmp_path / "none"), pki.server_key, "", "cannot read the certificate"),
        (pki.server_cert, str(tmp_path / "none"), "", "cannot read the key"),
        (pki.server_cert, pki.client_key, "", "not a certificate and its key"),
        (pki.server_cert, pki.server_key, pki.server_key, "no CA certificate"),
    ]:
        with pytest.raises(ConfigError, match=words):
            server_context(cert, key, ca)


async def test_contexts_speak_tls_1_3_to_each_other_and_to_nobody_older(tmp_path: Path) -> None:
    pki = Pki(tmp_path)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    at_server = server_context(pki.server_cert, pki.server_key, pki.ca)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=at_server)
    port = server.sockets[0].getsockname()[1]
    mine = client_context(pki.ca, pki.client_cert, pki.client_key)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=mine)
    assert await reader.readline() == b"hello\n"
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", port, ssl=old)
    writer.close()
    server.close()
