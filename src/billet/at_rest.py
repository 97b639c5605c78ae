"""Files at rest: what Billet writes can be read by its own user only, and files that others can read are named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

RECORDS = "auctions.db"  # in a server's --data-dir
OTHERS = stat.S_IRWXO  # a group may be let in on purpose: for backups, or for a key that two daemons share


def write_for_owner_only() -> None:
    """Files that this process and its children create have mode 0600 or less, and folders 0700."""
    os.umask(0o077)


def exposed(paths: Iterable[Path]) -> list[str]:
    """One line for each of these files that other users can read or change, with what to do about it."""
    return [
        f"{path} is open to every user of this machine: chmod o= {path}"
        for path in paths
        if path.is_file() and path.stat().st_mode & OTHERS
    ]


def server_files(store: str, data_dir: str) -> list[Path]:
    """What a server with this store's URL keeps on disk: its store, unless that is etcd, and the auction records."""
    scheme, _, rest = store.partition(":///")
    databases = [Path(data_dir) / RECORDS, *([Path(data_dir) / rest] if scheme == "sqlite" else [])]
    return [path.with_name(path.name + suffix) for path in databases for suffix in ("", "-wal", "-shm")]
