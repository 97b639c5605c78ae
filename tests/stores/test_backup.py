"""Backups: whole, from either engine to either, and never by halves."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from billet.cli import main
from billet.core.access import PutCredential
from billet.core.errors import ConfigError, StoreCorrupt, StoreError
from billet.core.model import PlacementState
from billet.core.questions.checkup import Finding, findings
from billet.core.state import PutHost, PutPlacement
from billet.ports import Term
from billet.store import backup as files
from billet.store.engine import Engine
from tests.etcd_fixture import LocalEtcd
from tests.stores.backends import (
    ME,
    OTHER,
    Backend,
    EtcdBackend,
    Opened,
    SqliteBackend,
    contents,
    credential,
    host,
    placement,
    written,
)  # fmt: skip

WHEN = "2026-01-01T00:00:00+00:00"
CHANGES = [
    PutHost(host("h1")),
    PutHost(host("h2")),
    PutCredential(credential("ci")),
    *(PutPlacement(placement(n)) for n in range(2_500)),
]


def silent(count: int) -> None:
    """Nobody looks on."""


async def fill(engine: Engine, changes: list[Any]) -> Term:
    term = await engine.campaign(ME)
    await asyncio.gather(*(engine.commit(term, changes[n : n + 100]) for n in range(0, len(changes), 100)))
    return term


@pytest.fixture
async def other(etcd_server: LocalEtcd, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store of the other engine."""
    (tmp_path / "other").mkdir()
    to_etcd = isinstance(backend, SqliteBackend)
    stores = Opened(EtcdBackend(etcd_server) if to_etcd else SqliteBackend(tmp_path / "other", monkeypatch))
    yield stores
    await stores.close()


async def test_a_backup_taken_under_a_leader_is_restored_to_the_other_engine_and_terms_go_on_above(
    opened: Opened, other: Opened, tmp_path: Path
) -> None:
    engine, old = await opened(), await opened()
    term = await fill(engine, CHANGES)
    path = tmp_path / "x.backup"
    files.write(await files.take(old, WHEN), path)
    await engine.commit(term, [PutPlacement(placement(9_999))])
    fresh, done = await other(), []
    new = await files.restore(fresh, files.read(path), False, done.append)
    assert sum(done) == len(CHANGES)
    assert contents(await fresh.load()) == written(*CHANGES)
    assert await fresh.leader() is None
    again = await fresh.campaign(OTHER)
    assert again.number > new.number > term.number + files.TERMS_AHEAD


async def test_going_back_in_the_same_store_makes_it_what_it_was_and_terms_still_grow(
    opened: Opened, tmp_path: Path
) -> None:
    engine = await opened()
    term = await fill(engine, CHANGES[:10])
    taken = await files.take(engine, WHEN)
    await engine.commit(term, [PutPlacement(placement(1, state=PlacementState.LOST)), PutPlacement(placement(77))])
    await engine.resign(term)
    late = await engine.campaign(ME)
    await engine.resign(late)
    await files.restore(engine, taken, True, silent)
    assert contents(await engine.load()) == written(*CHANGES[:10])
    assert (await engine.campaign(ME)).number > late.number


async def test_a_store_that_is_led_or_holds_something_is_left_as_it_is(opened: Opened) -> None:
    engine, second = await opened(), await opened()
    term = await fill(engine, CHANGES[:10])
    taken = files.Backup((await files.take(engine, WHEN)).header, {})
    with pytest.raises(StoreError, match="server a leads"):
        await files.restore(second, taken, True, silent)
    await engine.resign(term)
    with pytest.raises(StoreError, match="holds 10 records: --force"):
        await files.restore(second, taken, False, silent)
    assert contents(await engine.load()) == written(*CHANGES[:10])
    assert (await engine.campaign(ME)).number < files.TERMS_AHEAD, "a restore that was refused changes nothing"


async def test_a_restore_that_breaks_off_is_recognised_until_another_one_gets_through(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened()
    await engine.resign(await fill(engine, CHANGES))
    taken = await files.take(engine, WHEN)

    def broken(count: int) -> None:
        raise ConnectionError

    monkeypatch.setattr(files, "CONCURRENT", 100)
    with pytest.raises(ConnectionError):
        await files.restore(engine, files.Backup(taken.header, {}), True, broken)
    second = await opened()
    for doing in (second.load(), files.take(second, WHEN)):
        with pytest.raises(StoreCorrupt, match="was interrupted"):
            await doing
    with pytest.raises(StoreError, match="--force"):
        await files.restore(second, taken, False, silent)
    await files.restore(second, taken, True, silent)
    assert contents(await engine.load()) == written(*CHANGES)


@pytest.fixture
async def whole(tmp_path: Path) -> Path:
    """A sound backup."""
    engine = SqliteBackend(tmp_path, pytest.MonkeyPatch()).store()
    await engine.open()
    await fill(engine, CHANGES[:50])
    files.write(await files.take(engine, WHEN), tmp_path / "whole")
    await engine.close()
    return tmp_path / "whole"


def test_no_damage_to_a_backup_goes_unnoticed(whole: Path) -> None:
    sound = whole.read_bytes()
    refused = 0
    for at in range(0, len(sound), 97):
        for damaged in (sound[:at], sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]):
            whole.write_bytes(damaged)
            with pytest.raises((StoreCorrupt, ConfigError)) as caught:
                files.read(whole)
            assert "\n" not in caught.value.text
            refused += 1
    assert refused > 100
    whole.write_bytes(sound)
    assert len(files.read(whole).records) == 50


def test_a_backup_of_a_newer_billet_is_refused(whole: Path) -> None:
    taken = files.read(whole)
    header = files.Header(files.FORMAT, 99, 1, 1, WHEN, 50)
    files.write(files.Backup(header, taken.records), whole)
    with pytest.raises(StoreCorrupt, match="upgrade"):
        files.read(whole)


def test_a_backup_that_cannot_be_written_leaves_the_old_one(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, taken = whole.read_bytes(), files.read(whole)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        files.write(taken, whole)
    assert whole.read_bytes() == before
    assert not list(whole.parent.glob(".whole*"))


def test_findings_in_records_are_told_and_what_is_wrong_comes_first() -> None:
    twins = [placement(1), placement(2)]
    for twin in twins:
        object.__setattr__(twin, "uid", "u1")
    many = [placement(n, state=PlacementState.STARTED) for n in range(10, 14)]
    lost = [placement(n, state=PlacementState.LOST) for n in range(20, 30)]
    stray = placement(3, host="h9")
    assert findings([host("h1")], [*many, *lost, *twins, stray]) == [
        Finding(True, "microVM u1 has 2 placements: p000001, p000002"),
        Finding(True, "1 placements are on host 'h9', which has no record"),
        Finding(False, "host 'h1' is overcommitted by 5 vcpu; was its allocatable lowered?"),
    ]
    assert findings([host("h1")], many[:3]) == []


def run(*arguments: str) -> Result:
    """The command, in a thread: it has an event loop of its own."""
    return CliRunner().invoke(main, ["store", *arguments])


@pytest.fixture
def for_owner_only() -> Iterator[None]:
    """As every `billet` process does it: otherwise the check would say that others can read the store."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("for_owner_only")
@pytest.mark.parametrize("kind", ["sqlite", "etcd"])
async def test_the_commands_on_a_running_cluster_and_after_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: SqliteBackend | EtcdBackend = SqliteBackend(tmp_path, monkeypatch)
    url = f"sqlite:///{tmp_path / 'billet.db'}"
    if kind == "etcd":
        backend = EtcdBackend(request.getfixturevalue("own_etcd"))
        backend.prefix = "/billet/"
        url = backend.server.endpoint.replace("http://", "etcd://")
    engine = backend.store()
    await engine.open()
    term = await fill(engine, [PutHost(host("h1")), PutPlacement(placement(1))])
    path = tmp_path / "x.backup"

    async def billet(*arguments: str) -> Result:
        return await asyncio.to_thread(run, *arguments, "--store", url)

    checked = await billet("check", "-o", "json")
    report = json.loads(checked.stdout)
    assert checked.exit_code == 0
    assert (report["hosts"], report["placements"], report["leader"], report["findings"]) == (1, 1, "a", [])
    taken = await billet("backup", str(path))
    assert (taken.exit_code, "2 records" in taken.stdout) == (0, True)
    before = path.read_bytes()
    refused = await billet("backup", str(path))
    assert (refused.exit_code, "overwrite it with --force" in refused.stderr) == (2, True)
    assert path.read_bytes() == before
    assert (await billet("backup", "--force", str(path))).exit_code == 0
    refused = await billet("restore", str(path))
    assert (refused.exit_code, "stop all servers" in refused.stderr) == (1, True)
    await engine.commit(term, [PutPlacement(placement(2, host="h7"))])
    await backend.write_raw("hosts/h2", b"{")
    await engine.resign(term)
    wrong = await billet("check")
    assert (wrong.exit_code, "hosts/h2" in wrong.stdout, "'h7'" in wrong.stdout) == (1, True, True)
    restored = await billet("restore", "--force", str(path))
    assert (restored.exit_code, "Now start the servers" in restored.stdout) == (0, True)
    assert len((await engine.load()).changes) == 2
    await engine.close()


def test_an_etcd_that_does_not_answer_is_said_in_one_line() -> None:
    result = run("check", "--store", "etcd://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("billet: etcd does not answer at 127.0.0.1:1")
