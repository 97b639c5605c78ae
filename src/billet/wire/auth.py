"""Authorization headers: flintlockd's form, `Basic` with the base64 of the token alone, and the usual `Bearer`."""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

NO_TOKEN = (
    "could not extract token from request header: "
    "rpc error: code = Unauthenticated desc = Request unauthenticated with basic"
)
WRONG_TOKEN = "invalid auth token: failed basic authentication. Check the token supplied"


def check_basic(authorization: str | None, *tokens: str) -> str | None:
    """Check an authorization header: None when it carries a token, else flintlockd's text for UNAUTHENTICATED.

    No token, or "" = the server accepts every call.
    """
    if not any(tokens):
        return None
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return NO_TOKEN
    right = any(compare_digest(given.encode(), _encode(token).encode()) for token in tokens)
    return None if right else WRONG_TOKEN


class Shown(NamedTuple):
    """What an authorization header shows. `token` "" = it cannot be read."""

    basic: bool  # flintlockd's form; only that one may carry --basic-auth-token
    token: str


def read_token(authorization: str | None) -> Shown | None:
    """The token in an authorization header; None when there is none."""
    scheme, _, given = (authorization or "").partition(" ")
    match scheme.lower():
        case "basic":
            try:
                return Shown(True, b64decode(given, validate=True).decode())
            except ValueError:
                return Shown(True, "")
        case "bearer":
            return Shown(False, given if given.isascii() else "")
    return None


def hash_of(token: str) -> str:
    """What is kept of a credential's token: SHA-256 in hexadecimal."""
    return sha256(token.encode()).hexdigest()


def basic_header(token: str) -> str:
    """The `authorization` header that a flintlockd with this token accepts."""
    return f"Basic {_encode(token)}"


def _encode(token: str) -> str:
    return b64encode(token.encode()).decode("ascii")
