"""A store's records in one file, and back: for backups, and to move from SQLite to etcd or the other way.

JSON lines that a person can read: a header, one line for each record, and the checksum of all before it. A restore is
done by a leader, so that no server leads meanwhile; it marks the store first and takes the mark away at last, so that
one which broke off half-way is recognised by whoever opens the store, and refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from billet.core.errors import ConfigError, StoreCorrupt, StoreError
from billet.ports import Engine, Leader, Term
from billet.store.records import RESTORING, VERSION, decode, encode

FORMAT = "billet store backup"
# Hosts may have seen later terms than the backup has. More than a store makes in years of 10,000 commits a second,
# and, as a power of ten, still legible in the number of a term.
TERMS_AHEAD = 10**12
RESTORER = Leader("billet store restore", "", "")
ELECTED_WITHIN_S = 15.0  # by then the lease of a server that was killed has ended
ABREAST = 1_000  # records on their way to the store at once; they share transactions

Progress = Callable[[int], None]  # told how many more records are done


class Header(msgspec.Struct, frozen=True):
    """The first line. `version` is that of the records."""

    format: str
    version: int
    revision: int
    term: int  # no greater one had been given out
    at: str  # wall clock, for people
    records: int


class Backup(msgspec.Struct, frozen=True):
    """What a file holds."""

    header: Header
    records: dict[str, bytes]


async def take(engine: Engine, at: str) -> Backup:
    """Everything in the store at one revision. Raises StoreCorrupt when there is something unreadable in it."""
    snapshot = await engine.load()
    term = (await engine.vitals()).term  # asked later than the records, so that it is no less than any of theirs
    records = {key: record or b"" for key, record in map(encode, snapshot.changes)}
    return Backup(Header(FORMAT, VERSION, snapshot.revision, term, at, len(records)), records)


def write(backup: Backup, path: Path) -> None:
    """Write the file, wholly or not at all; one that is there already is replaced. Raises StoreError."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                for line in _lines(backup):
                    file.write(line)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path) -> Backup:
    """The file, checked to the last byte and each record decoded. Raises ConfigError and StoreCorrupt."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    header = _header(path, lines)
    try:
        (written,) = msgspec.json.decode(lines[-1], type=dict[str, str]).values()
        records = {}
        for line in lines[1:-1]:
            key, raw = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
            records[key] = bytes(raw)
    except (msgspec.DecodeError, ValueError):
        written, records = "", {}
    if written != hashlib.sha256(b"".join(lines[:-1])).hexdigest() or len(records) != header.records:
        raise StoreCorrupt(f"{path} is damaged or not complete: take another backup")
    for key, record in records.items():
        decode(key, record)
    return Backup(header, records)


def _header(path: Path, lines: list[bytes]) -> Header:
    try:
        header = msgspec.json.decode(lines[0] if lines else b"", type=Header)
    except msgspec.DecodeError:
        header = None
    if header is None or header.format != FORMAT:
        raise ConfigError(f"{path} is no backup made by billet store backup")
    if header.version > VERSION:
        raise StoreCorrupt(f"{path} was written by a newer Billet (records {header.version}): upgrade this one")
    return header


def _lines(backup: Backup) -> Iterator[bytes]:
    digest = hashlib.sha256()
    rows = ((key, msgspec.Raw(record)) for key, record in backup.records.items())
    for item in (backup.header, *rows):
        line = msgspec.json.encode(item) + b"\n"
        digest.update(line)
        yield line
    yield msgspec.json.encode({"sha256": digest.hexdigest()}) + b"\n"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def restore(engine: Engine, backup: Backup, force: bool, progress: Progress) -> Term:
    """Make the store hold what the backup does. Raises StoreError where it must not be touched.

    Every later term is above all that hosts can have seen, so that they obey (docs/adr/0009).
    """
    await _refuse(engine, force)
    campaign = engine.campaign(RESTORER, above=backup.header.term + TERMS_AHEAD)
    try:
        term = await asyncio.wait_for(campaign, ELECTED_WITHIN_S)
    except TimeoutError:
        raise StoreError("another server leads on this store, or did until now: stop all of them first") from None
    try:
        held = await _refuse(engine, force, itself=True)
        await engine.write(term, {RESTORING: b"{}"})
        wanted: dict[str, bytes | None] = {**dict.fromkeys(held.keys() - {RESTORING}), **backup.records}
        items = iter(wanted.items())
        while part := list(islice(items, ABREAST)):
            await asyncio.gather(*(engine.write(term, {key: record}) for key, record in part))
            progress(len(part))
        await engine.write(term, {RESTORING: None})
    finally:
        await engine.resign(term)
    return term


async def _refuse(engine: Engine, force: bool, itself: bool = False) -> dict[str, bytes]:
    """What the store holds. Raises StoreError where a restore would harm a running cluster, or records unasked."""
    leader = None if itself else await engine.leader()
    if leader:
        raise StoreError(f"server {leader.id} leads on this store: stop all servers first")
    _, held = await engine.records()
    if held and not force:
        raise StoreError(f"the store holds {len(held)} records: --force replaces them by those of the backup")
    return held
