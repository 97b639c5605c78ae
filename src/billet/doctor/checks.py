"""Checks that hosts and servers share: clock, certificates, ports, connections, files that others can read."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import psutil

from billet.at_rest import exposed
from billet.core.errors import ConfigError
from billet.core.expiry import DAY_S, Urgency, urgency
from billet.core.plural import counted
from billet.reloading import read_validity
from billet.settings import split_endpoint

CONNECT_S = 5.0
TIMEX_BYTES, TIMEX_STATUS = (
    256,
    40,
)  # struct timex of the kernel's 64-bit ABI: longer than it is, and where `status` is
UNSYNCHRONISED = 0x40  # STA_UNSYNC


class Level(StrEnum):
    """How a check ended. Only FAILED makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    SKIPPED = "skipped"


class Check(NamedTuple):
    """One check: what was looked at, how it ended, what was found, and what to do if it is not ok."""

    name: str
    level: Level
    found: str
    cure: str = ""


def clock() -> Check:
    """Whether the kernel knows that its clock is kept in step."""
    status = _clock_status()
    if status is None:
        return Check("clock", Level.SKIPPED, "this kernel does not say whether its clock is synchronised")
    if status & UNSYNCHRONISED:
        cure = "run chrony or systemd-timesyncd: certificates and tokens expire by this clock"
        return Check("clock", Level.WARNING, "not synchronised", cure)
    return Check("clock", Level.OK, "synchronised")


def _clock_status() -> int | None:
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)  # modes = 0: only read
    try:
        if ctypes.sizeof(ctypes.c_long) != 8 or ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return ctypes.c_int.from_buffer(buffer, TIMEX_STATUS).value


def certificates(paths: Iterable[tuple[str, str]]) -> Iterator[Check]:
    """How long each (option, PEM file) is valid; files that are not set are left out."""
    for option, path in paths:
        if path:
            yield _certificate(f"certificate {option}", path)


def _certificate(name: str, path: str) -> Check:
    try:
        valid = read_validity(path)
    except ConfigError as error:
        return Check(name, Level.FAILED, error.text, f"give {name.split()[-1]} a certificate in PEM")
    now_s = time.time()
    if valid.begins_s > now_s:
        return Check(name, Level.FAILED, f"{path} is not valid yet", "check this machine's clock")
    days = counted(int(abs(valid.ends_s - now_s) / DAY_S), "day")
    cure = f"replace the file; the new one is read without a restart (docs/operations.md): {path}"
    match urgency(valid.ends_s - now_s):
        case Urgency.NONE:
            return Check(name, Level.OK, f"valid for {days}")
        case Urgency.EXPIRED:
            return Check(name, Level.FAILED, f"{path} expired {days} ago", cure)
    return Check(name, Level.WARNING, f"expires in {days}", cure)


def secrets(paths: Iterable[Path]) -> Iterator[Check]:
    """Files with secrets that other users can read."""
    for line in exposed(paths):
        problem, _, cure = line.partition(": ")
        yield Check("secret file", Level.WARNING, problem, cure)


def port(option: str, endpoint: str) -> Check:
    """Whether a server can listen there, or does so already."""
    host, number = split_endpoint(endpoint)
    name = f"port {option}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, number, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)[0]  # fmt: skip
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)  # of two sockets with SO_REUSEADDR, only the second to listen is refused
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _used(name, option, endpoint, number)
        cure = f"choose an address of this machine and a port that this user may open, for {option}"
        return Check(name, Level.FAILED, f"cannot listen on {endpoint}: {error.strerror}", cure)
    return Check(name, Level.OK, f"{endpoint} is free")


def _used(name: str, option: str, endpoint: str, number: int) -> Check:
    owner = _owner(number)
    if owner is None:
        cure = "run this as root to see by which program"
        return Check(name, Level.WARNING, f"{endpoint} is in use, perhaps by `billet server`", cure)
    with suppress(psutil.Error):
        command = owner.cmdline()
        if "server" in command and any("billet" in Path(word).name for word in command[: command.index("server")]):
            return Check(name, Level.OK, f"`billet server` listens on {endpoint} (pid {owner.pid})")
        cure = f"stop that program, or choose another {option}"
        return Check(name, Level.FAILED, f"{endpoint} is in use by {owner.name()} (pid {owner.pid})", cure)
    return Check(name, Level.WARNING, f"{endpoint} is in use")


def _owner(number: int) -> psutil.Process | None:
    """The process that listens on a port; None if it is another user's, or has ended."""
    with suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == number and one.pid:
                return psutil.Process(one.pid)
    return None


async def connects(name: str, endpoint: str, cure: str) -> Check:
    """Whether something accepts connections there."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(*split_endpoint(endpoint))
    except TimeoutError:
        return Check(name, Level.FAILED, f"{endpoint} does not answer within {CONNECT_S:g} s", cure)
    except OSError as error:
        return Check(name, Level.FAILED, f"{endpoint}: {why(error)}", cure)
    writer.close()
    return Check(name, Level.OK, f"{endpoint} accepts connections")


def why(error: OSError) -> str:
    """The reason of a failed connect in a few words."""
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    return os.strerror(error.errno).lower() if error.errno else str(error)
