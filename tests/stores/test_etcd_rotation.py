"""New TLS files and passwords towards etcd, while a leader leads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from billet.adapters.pki import Files, write_pki
from billet.core.errors import EtcdTokenExpired
from billet.core.model import PlacementState
from billet.core.state import PutPlacement
from billet.reloading import Watch
from billet.store.etcd import EtcdStore
from billet.store.etcd_client import EtcdClient
from billet.wire.pb import etcd_rpc_pb2 as pb
from billet.wire.secret import FileText
from tests.etcd_fixture import LocalEtcd
from tests.stores.backends import ME, contents, placement, until, written
from tests.stores.test_etcd import demand_passwords

RESERVED = PutPlacement(placement(1))
ASKED = pb.RangeRequest(key=b"x")
STARTED = PutPlacement(placement(1, state=PlacementState.STARTED))


async def test_the_leader_goes_on_with_a_new_certificate_of_a_new_ca(tmp_path: Path) -> None:
    """etcd trusts both CAs, and shows its new certificate at once. Then it is restarted, and trusts the new CA only.

    Broken on purpose (new files, but the channels stay): the last commit fails, for etcd refuses the old certificate.
    """
    old, new = (write_pki(tmp_path / name, ["127.0.0.1"], 1) for name in ("old", "new"))
    ours = Files(*(tmp_path / path.name for path in old))
    both = old.ca.read_bytes() + new.ca.read_bytes()
    put(ours, old)
    ours.ca.write_bytes(both)
    etcds = tmp_path / "etcds.crt"
    etcds.write_bytes(both)
    flags = ["--cert-file", str(ours.server_cert), "--key-file", str(ours.server_key)]
    server = LocalEtcd(tmp_path, [*flags, "--trusted-ca-file", str(etcds), "--client-cert-auth"], scheme="https")
    await asyncio.to_thread(server.start)
    store = EtcdStore([server.endpoint], str(ours.ca), str(ours.client_cert), str(ours.client_key), lease_ttl_s=60)
    try:
        await store.open()
        term = await store.campaign(ME)
        await store.commit(term, [RESERVED])
        put(ours, new)
        channel = store.client.channels[0]
        await Watch().look(at_once=True)
        await until(lambda: store.client.channels[0] is not channel)
        etcds.write_bytes(new.ca.read_bytes())
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await store.commit(term, [STARTED])
        assert contents(await store.load()) == written(STARTED)
        await store.close()
    finally:
        server.stop()


def put(where: Files, files: Files) -> None:
    for to, path in zip(where, files, strict=True):
        to.write_bytes(path.read_bytes())


async def test_a_password_changes_under_a_leader_whose_file_has_both(own_etcd: LocalEtcd, tmp_path: Path) -> None:
    """Broken on purpose (only the first line is tried): the store cannot be opened before etcd knows it."""
    await demand_passwords(own_etcd)
    path = tmp_path / "password"
    path.write_text("changed\nsecret\n")
    store = EtcdStore([own_etcd.endpoint], user="root", password=FileText("changed\nsecret", str(path)))
    await store.open()
    term = await store.campaign(ME)
    await store.commit(term, [RESERVED])
    operator = EtcdClient([own_etcd.endpoint], user="root", password="secret")
    request = pb.AuthenticateRequest(name="root", password="changed")
    await operator.call("Auth/UserChangePassword", request, pb.AuthenticateResponse, timeout_s=5.0)
    await operator.close()
    await store.commit(term, [STARTED])
    assert contents(await store.load()) == written(STARTED)
    await store.close()


async def test_calls_whose_login_has_aged_share_a_new_one(
    own_etcd: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by `tests.cluster.rotation`: 64 creates logged in 64 times, and each gave up the login of the others.

    etcd needs 0.1 s of CPU for a login, and so the leader lost its lease.

    Broken on purpose (no shared login; or a refused token takes the newer one with it): there are many logins.
    """
    await demand_passwords(own_etcd)
    client = EtcdClient([own_etcd.endpoint], user="root", password="secret", call_s=10.0)
    log_in, logins = client.log_in, []

    async def noted(at: int) -> None:
        logins.append(at)
        await log_in(at)

    monkeypatch.setattr(client, "log_in", noted)
    for aged in ("", "aged.1", "aged.2"):
        client.token = aged
        await asyncio.gather(*(client.call("KV/Range", ASKED, pb.RangeResponse) for _ in range(40)))
    assert len(logins) == 3
    with pytest.raises(EtcdTokenExpired):  # this call was on its way before the others had the new login
        await client.send(0, "KV/Range", ASKED, pb.RangeResponse, 10.0, (("token", "aged.2"),))
    await client.call("KV/Range", ASKED, pb.RangeResponse)
    assert len(logins) == 3
    await client.close()
