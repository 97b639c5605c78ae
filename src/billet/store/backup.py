"""Backup and restore: all records of a store in one file. Also moves a cluster between SQLite and etcd.

The file is readable JSON lines: a header, one line per record, and a checksum of all lines before it. The restore
leads while it runs, so that no server can. It first marks the store and at the end removes the mark, so that a store
whose restore was interrupted is recognised and refused.
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
from billet.ports import Leader, Term
from billet.store.engine import Engine
from billet.store.records import NOT_JSON, RESTORING, VERSION, decode, encode

FORMAT = "billet store backup"
# Hosts may have seen later terms than the backup. This is more than a store reaches in years at 10,000 commits a
# second; as a power of ten it stays readable in a term's number.
TERMS_AHEAD = 10**12
RESTORER = Leader("billet store restore", "", "")
ELECTED_WITHIN_S = 15.0  # longer than the lease of a server that was killed
CONCURRENT = 1_000  # records written at once; they share transactions

Progress = Callable[[int], None]  # called with the number of records written since the last call


class Header(msgspec.Struct, frozen=True):
    """The first line of the file. `version` is the version of the records."""

    format: str
    version: int
    revision: int
    term: int  # the highest term so far
    at: str  # wall clock
    records: int


class Backup(msgspec.Struct, frozen=True):
    """The contents of a backup file."""

    header: Header
    records: dict[str, bytes]


async def take(engine: Engine, at: str) -> Backup:
    """Read everything in the store at one revision. Raises StoreCorrupt for a record that cannot be read."""
    snapshot = await engine.load()
    term = (await engine.vitals()).term  # read after the records, so it is not lower than theirs
    records = {key: record or b"" for key, record in map(encode, snapshot.changes)}
    return Backup(Header(FORMAT, VERSION, snapshot.revision, term, at, len(records)), records)


def write(backup: Backup, path: Path) -> None:
    """Write the file atomically, replacing an existing one. Raises StoreError."""
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
    """Read a file, and check its checksum and every record. Raises ConfigError and StoreCorrupt."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    header = _header(path, lines)
    try:
        written = msgspec.json.decode(lines[-1], type=dict[str, str])["sha256"]
        records = {}
        for line in lines[1:-1]:
            key, raw = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
            records[key] = bytes(raw)
    except (*NOT_JSON, KeyError):
        written, records = "", {}
    if written != hashlib.sha256(b"".join(lines[:-1])).hexdigest() or len(records) != header.records:
        raise StoreCorrupt(f"{path} is damaged or incomplete: use another backup")
    for key, record in records.items():
        decode(key, record)
    return Backup(header, records)


def _header(path: Path, lines: list[bytes]) -> Header:
    try:
        header = msgspec.json.decode(lines[0] if lines else b"", type=Header)
    except NOT_JSON:
        header = None
    if header is None or header.format != FORMAT:
        raise ConfigError(f"{path} is not a file written by billet store backup")
    if header.version > VERSION:
        raise StoreCorrupt(f"{path} was written by a newer Billet (version {header.version}): upgrade this one")
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
    """Replace the store's records by those of the backup. Raises StoreError when the store must not be changed.

    All later terms are higher than any that hosts can have seen, so hosts obey them (docs/adr/0009).
    """
    await _refuse(engine, force)
    campaign = engine.campaign(RESTORER, above=backup.header.term + TERMS_AHEAD)
    try:
        term = await asyncio.wait_for(campaign, ELECTED_WITHIN_S)
    except TimeoutError:
        raise StoreError("another server leads on this store or did until now: stop all servers first") from None
    try:
        held = await _refuse(engine, force, itself=True)
        await engine.write(term, {RESTORING: b"{}"})
        wanted: dict[str, bytes | None] = {**dict.fromkeys(held.keys() - {RESTORING}), **backup.records}
        items = iter(wanted.items())
        while part := list(islice(items, CONCURRENT)):
            await asyncio.gather(*(engine.write(term, {key: record}) for key, record in part))
            progress(len(part))
        await engine.write(term, {RESTORING: None})
    finally:
        await engine.resign(term)
    return term


async def _refuse(engine: Engine, force: bool, itself: bool = False) -> dict[str, bytes]:
    """The store's records. Raises StoreError if a server leads, or if there are records and no `force`."""
    leader = None if itself else await engine.leader()
    if leader:
        raise StoreError(f"server {leader.id} leads on this store: stop all servers first")
    _, held = await engine.records()
    if held and not force:
        raise StoreError(f"the store holds {len(held)} records: --force replaces them with those of the backup")
    return held
