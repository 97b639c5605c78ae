"""An agent's identity on disk: its key, its lock, and what the kernel calls this machine."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from billet.core.errors import ConfigError

SYSTEM_STATE = Path("/var/lib/billet-agent")
MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class KeyIdentity:
    """ports.Identity: an Ed25519 key, and the ids of the machine."""

    def __init__(self, key: Ed25519PrivateKey, machine: str, boot: str) -> None:
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.machine = machine
        self.boot = boot
        self._key = key

    @classmethod
    def of_seed(cls, seed: bytes, machine: str, boot: str) -> KeyIdentity:
        """The identity whose private key are these 32 bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed), machine, boot)

    def sign(self, message: bytes) -> bytes:
        """See ports.Identity."""
        return self._key.sign(message)


class StateFolder:
    """The folder in which agents keep what they must remember. Locked per host while its agent runs."""

    def __init__(self, given: str) -> None:
        """`given` is --state; "" = /var/lib/billet-agent, or a folder of the user. Raises ConfigError."""
        self.path = _made(Path(given)) if given else _default()
        self._lock: int | None = None

    def identity(self, host_id: str, flintlock: str) -> KeyIdentity:
        """The identity of a host's agent; its key is made at the first start. Raises ConfigError.

        No second agent gets it until this process ends, or `close` is called. A host that was renamed keeps its key:
        a new name takes over that of an agent that called the same `flintlock` address and runs no longer.
        """
        path = self.path / f"{quote(host_id, safe=' ')}.key"
        try:
            self._lock_for(host_id, path.with_suffix(".lock"))
            former = None if path.exists() else self._former(flintlock)
            key = _key(former) if former else _key(path)
            if former:
                _write(path, key)
            self._note(flintlock)
        except OSError as error:
            raise ConfigError(
                f"the agent's state folder {self.path} cannot be used: {error.strerror}; give --state DIR"
            ) from None
        return KeyIdentity(key, read_id(MACHINE_ID), read_id(BOOT_ID))

    def close(self) -> None:
        """Let another agent have the identity."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _former(self, flintlock: str) -> Path | None:
        """The key of the host that this one was before it was renamed."""
        for path in sorted(self.path.glob("*.lock")):
            key = path.with_suffix(".key")
            if path.read_text() == flintlock and key.exists() and _is_free(path):
                return key
        return None

    def _note(self, flintlock: str) -> None:
        assert self._lock is not None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, flintlock.encode(), 0)

    def _lock_for(self, host_id: str, path: Path) -> None:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(
                f"an agent of host {host_id!r} runs on this machine already (it has locked {path}): stop it, or give "
                "this one its own --id"
            ) from None
        self._lock = lock


def _is_free(path: Path) -> bool:
    """Whether no running agent has locked this file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _default() -> Path:
    try:
        return _made(SYSTEM_STATE)
    except ConfigError:
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return _made(Path(home).expanduser() / "billet")


def _made(path: Path) -> Path:
    """The folder, made if it is not there. Raises ConfigError when nothing can be written into it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the agent's state folder {path} cannot be made: {error.strerror}; give --state DIR"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"the agent's state folder {path} cannot be written; give --state DIR")
    return path


def _key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        _write(path, key)
        return key
    try:
        loaded = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        loaded = None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} is not an agent's key: restore it, or delete it and run `billet host rebind` for this host"
        )
    return loaded


def _write(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a key. A crash leaves the whole file or none."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_id(path: Path) -> str:
    """An id that the kernel or the system keeps in a file; "" when there is none."""
    try:
        text = path.read_text().strip()
    except (OSError, ValueError):
        return ""
    return text if len(text) <= 64 and text.isprintable() else ""
