"""Methods of newer Flintlock releases: exec and SSH streams (0.13), and ServerInfo (0.15), which has no stubs."""

from __future__ import annotations

import re
from typing import NamedTuple

from billet.core.errors import InvalidRequest
from billet.wire.flintlock import SERVICE, fields, parse
from billet.wire.pb import flintlock_exec_pb2, flintlock_ssh_pb2

SERVER_INFO = f"/{SERVICE}/ServerInfo"
EXEC = "/microvmexec.services.api.v1alpha1.MicroVMExec/ExecCommand"
SSH = "/microvmsshproxy.services.api.v1alpha1.MicroVMSSHProxy/SSHProxy"

# flintlockd's texts for a first message without a uid.
NO_UID = {EXEC: "first message must be a start message with uid and cmd set", SSH: "first message must set uid"}

_VERSION = 1  # field number, in ServerInfo's reply and in the message that it holds
_RELEASE = re.compile(r"v?([0-9]{1,9}(?:\.[0-9]{1,9})*)(-?)")
_ULID = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")


class Version(NamedTuple):
    """A release, for comparing: 0.15.2-rc1 comes before 0.15.2, and that before 0.15.10."""

    numbers: tuple[int, ...] = ()
    released: bool = False  # False: a version before that release


UNKNOWN_VERSION = Version()  # before every other


def version_of(reply: bytes) -> Version:
    """The version in a ServerInfo reply, where it is a message with the text; UNKNOWN_VERSION if it has none."""
    try:
        text = first_field(first_field(reply, _VERSION), _VERSION).decode()
    except (InvalidRequest, UnicodeDecodeError):
        return UNKNOWN_VERSION
    found = _RELEASE.match(text)
    if not found:
        return UNKNOWN_VERSION
    return Version(tuple(map(int, found[1].split("."))), not found[2])


def stream_uid(method: str, first: bytes) -> str:
    """The uid of the microVM that a stream is about, by its first message; "" = none, or not where Billet looks.

    Raises InvalidRequest, with flintlockd's text, for exec and SSH without one.
    """
    # Parsed as flintlockd does it: of two uids the last one counts, so the caller needs the right to that microVM.
    uid: str
    if method == EXEC:
        uid = parse(flintlock_exec_pb2.ExecCommandRequest, first).start.uid
    elif method == SSH:
        uid = parse(flintlock_ssh_pb2.SSHProxyRequest, first).uid
    else:
        return uid_of(first)
    if not uid:
        raise InvalidRequest(NO_UID[method])
    return uid


def uid_of(request: bytes) -> str:
    """The uid in field 1 of any request, or in field 1 of that field, as in Flintlock's exec stream; "" = none."""
    for _ in range(2):
        try:
            request = first_field(request, 1)
        except InvalidRequest:  # the field is not a message
            return ""
        if _ULID.fullmatch(request):
            return request.decode("ascii")
    return ""


def first_field(message: bytes, number: int) -> bytes:
    """The value of the first field with this number that is not empty; b"" = none. Raises InvalidRequest."""
    return next((message[start:end] for n, _, start, end in fields(message) if n == number and start < end), b"")
