"""Certificates, keys and secrets that a process reads again when their files change, without a restart.

Everything that is made from such files is a `Kept`. A `Watch` looks at the files of all of them every LOOK_S, and at
once when it is told to (SIGHUP). New files are taken whole or not at all: while they cannot be used, the old ones
stay in force and the log says why (docs/adr/0038-secrets-are-read-again.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet

import structlog

from billet.core.errors import ConfigError
from billet.core.expiry import DAY_S, Urgency, urgency
from billet.log_throttle import LogThrottle

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

log = structlog.get_logger()

LOOK_S = 2.0  # between two looks at the files

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]  # of each file: when written, which inode, how many bytes

_kept: WeakSet[Kept[Any]] = WeakSet()  # of the whole process, as SIGHUP is


class Validity(NamedTuple):
    """From when until when a file's certificates can be used, in seconds since 1970."""

    begins_s: float
    ends_s: float


class Kept(Generic[T]):
    """A value made from files. It follows them; while changed files cannot be used, the last value stays."""

    def __init__(
        self,
        make: Callable[[], T],
        paths: Iterable[str],
        dated: Iterable[str] = (),
        changed: Callable[[T], Awaitable[None]] | None = None,
    ) -> None:
        """`make` reads `paths`, and raises ConfigError; "" is no file. `dated`: those that are certificates.

        `changed` is awaited on the event loop with each new value, but not with the first.
        """
        self.paths = tuple(path for path in paths if path)
        self.validity: dict[str, Validity] = {}
        self.changed = changed
        self._make, self._dated = make, [path for path in dated if path]
        self._taken = self._seen = _stamp(self.paths)
        self.value = make()
        if self.paths:
            _kept.add(self)

    def look(self, at_once: bool) -> bool:
        """Take changed files; returns whether there were any. Raises ConfigError if they cannot be used.

        Unless `at_once`, files are taken only if the last look has seen the same: they may still be written.
        """
        now = _stamp(self.paths)
        if now == self._taken and not self.validity:
            with suppress(ConfigError):  # OpenSSL has accepted them at the start, and decides
                self.validity = self._validity()
        last, self._seen = self._seen, now
        if now == self._taken or (now != last and not at_once):
            return False
        validity = self._validity()
        for path, valid in validity.items():
            _check(path, valid)
        value = self._make()
        if _stamp(self.paths) != now:  # they change while we read
            return False
        self.value, self.validity, self._taken = value, validity, now
        return True

    def _validity(self) -> dict[str, Validity]:
        return {path: read_validity(path) for path in self._dated}


class Watch:
    """Looks at all files of this process, and warns of certificates that expire."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._throttle = LogThrottle()
        self._warn_at_s = 0.0
        self._untold: set[Kept[Any]] = set()  # have a new value that `changed` has not taken yet

    def look_now(self) -> None:
        """Look at once. See process.on_reload."""
        self._wanted.set()

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            try:
                await self.look(self._wanted.is_set())
            except Exception:  # one that is not foreseen must not end the watch
                log.exception("cannot look at the files")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()

    async def look(self, at_once: bool) -> None:
        """Look once at everything, in a thread: a file may be on a file system that hangs."""
        self._wanted.clear()
        found = await asyncio.to_thread(_look_at, tuple(_kept), at_once)
        now_s = asyncio.get_running_loop().time()
        for paths in dict.fromkeys(kept.paths for kept, why in found if not why):
            log.info("new files in force", files=", ".join(paths))
            self._warn_at_s = 0.0
        for paths, why in dict.fromkeys((kept.paths, why) for kept, why in found if why):
            if at_once or self._throttle.should_log(paths[0], why, now_s):
                log.error("new files cannot be used; the old ones stay in force", error=why)
        self._untold |= {kept for kept, why in found if not why and kept.changed}
        for kept in tuple(self._untold):
            await self._tell(kept, now_s)
        if now_s >= self._warn_at_s:
            self._warn_at_s = now_s + DAY_S
            warn_of_expiry(validities(), time.time())

    async def _tell(self, kept: Kept[Any], now_s: float) -> None:
        """Tell `changed` of the new value. If it fails (no descriptors left), the next look tries again."""
        try:
            if kept.changed:
                await kept.changed(kept.value)
        except Exception as error:
            if self._throttle.should_log("changed", str(error), now_s):
                log.exception("new files are not in force everywhere yet", files=", ".join(kept.paths))
        else:
            self._untold.discard(kept)


def validities() -> dict[str, Validity]:
    """Every certificate file in force, and how long it is valid."""
    return {path: valid for kept in tuple(_kept) for path, valid in kept.validity.items()}


def warn_of_expiry(certificates: Mapping[str, Validity], now_s: float) -> None:
    """Log the certificates that expire within a month."""
    for path, valid in sorted(certificates.items()):
        left_s = valid.ends_s - now_s
        match urgency(left_s):
            case Urgency.NONE:
                continue
            case Urgency.SOON | Urgency.NOW as how_soon:
                say = log.warning
            case how_soon:
                say = log.error
        say("certificate expires: replace the file", file=path, renew=str(how_soon), days=round(left_s / DAY_S, 1),
            expires=_date(valid.ends_s))  # fmt: skip


def read_validity(path: str) -> Validity:
    """How long the certificates of a PEM file can be used. Raises ConfigError.

    Of a chain each one is needed. Of several CAs, as there are during a rotation, one suffices.
    """
    from cryptography.x509 import load_pem_x509_certificates  # takes 100 ms, which no command of a client needs

    try:
        certificates = load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} contains no certificate in PEM: {error}") from error
    begins = [one.not_valid_before_utc.timestamp() for one in certificates]
    ends = [one.not_valid_after_utc.timestamp() for one in certificates]
    if all(map(_is_ca, certificates)):
        return Validity(min(begins), max(ends))
    return Validity(max(begins), min(ends))


def _look_at(all_kept: Iterable[Kept[Any]], at_once: bool) -> list[tuple[Kept[Any], str]]:
    """Those that have changed, each with the reason why its files cannot be used, or ""."""
    found = []
    for kept in all_kept:
        try:
            if kept.look(at_once):
                found.append((kept, ""))
        except (ConfigError, OSError) as error:  # OSError: a file vanished between two of our looks at it
            found.append((kept, str(error)))
    return found


def _stamp(paths: Iterable[str]) -> Stamp:
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    try:
        about = Path(path).stat()  # of what a symbolic link leads to: Kubernetes replaces the link
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size


def _check(path: str, valid: Validity) -> None:
    now_s = time.time()
    if valid.ends_s <= now_s:
        raise ConfigError(f"{path} expired on {_date(valid.ends_s)}")
    if valid.begins_s > now_s:
        raise ConfigError(f"{path} is valid only from {_date(valid.begins_s)}; check the clocks")


def _is_ca(certificate: Certificate) -> bool:
    from cryptography.x509 import BasicConstraints, ExtensionNotFound

    try:
        return certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
    except (ExtensionNotFound, ValueError):
        return False


def _date(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_s))
