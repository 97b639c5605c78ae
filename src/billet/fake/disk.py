"""An SQLite file that keeps microVMs over restarts of the fake, in place of containerd's content store."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from billet.core.errors import ConfigError
from billet.fake.model import StoredMicroVm
from billet.wire.pb import flintlock_types_pb2 as types


class Disk:
    """One row for each microVM. A kill -9 of the process loses nothing; a power cut may.

    With path "" nothing is kept and every call returns at once.
    """

    def __init__(self, path: str, state_dir: str = "") -> None:
        self._state_dir = state_dir  # of flintlockd: a folder for each microVM, "" = none
        self._db: sqlite3.Connection | None = None
        if not path:
            return
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS microvm"
                " (uid TEXT PRIMARY KEY, provider TEXT, poisoned INTEGER, vm BLOB) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise ConfigError(f"cannot use --state {path}: {error}") from error

    def load(self) -> list[StoredMicroVm]:
        """All stored microVMs."""
        if self._db is None:
            return []
        rows = self._db.execute("SELECT provider, poisoned, vm FROM microvm ORDER BY uid")
        return [
            StoredMicroVm(types.MicroVM.FromString(vm), provider, bool(poisoned)) for provider, poisoned, vm in rows
        ]

    def save(self, record: StoredMicroVm) -> None:
        """Insert or replace one microVM."""
        if self._db is not None:
            row = (record.uid, record.provider, record.poisoned, record.vm.SerializeToString())
            self._db.execute("INSERT OR REPLACE INTO microvm VALUES (?, ?, ?, ?)", row)

    def remove(self, record: StoredMicroVm) -> None:
        """Delete one microVM."""
        if self._db is not None:
            self._db.execute("DELETE FROM microvm WHERE uid = ?", (record.uid,))
        if self._state_dir:
            shutil.rmtree(self._folder(record), ignore_errors=True)

    def write_pid(self, record: StoredMicroVm, pid: int) -> None:
        """Write the pid file of a VMM."""
        if self._state_dir:
            folder = self._folder(record)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{record.provider}.pid").write_text(f"{pid}\n")

    def _folder(self, record: StoredMicroVm) -> Path:
        spec = record.vm.spec
        return Path(self._state_dir, spec.namespace, spec.id, spec.uid)

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None
