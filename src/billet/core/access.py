"""Who may do what: credentials, roles, and `may`, which decides (docs/adr/0034-names-and-roles.md).

A credential is one caller's name and rights. It is proven by a token, of which only a hash is kept, or by a name in a
client certificate. A namespace pattern is a namespace, a prefix with `*` at its end, or `*` for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from billet.core.errors import without_not_found

EVERYWHERE = "*"  # the pattern of all namespaces
ITSELF = "billet"  # the caller's name in the audit log where no caller wanted the change
PATTERNS_MAX = 64
PATTERNS_SHOWN = 5  # in an error
TEXT_MAX_CHARS = 256  # of a pattern, and of the name in a certificate
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Role(StrEnum):
    """What a credential may do, apart from exec; each role has all rights of the one before."""

    VIEWER = "viewer"
    USER = "user"
    OPERATOR = "operator"


class Verb(StrEnum):
    """What a call does. The text completes "ci may not ..."."""

    LOOK = "see the hosts"
    TRACE = "see placements and auctions"
    READ = "read microVMs"
    CREATE = "create microVMs"
    DELETE = "delete microVMs"
    OPERATE = "change hosts or credentials"
    EXEC = "run commands in microVMs"
    OTHER = "call a method that this Billet does not know"


NEEDS = {
    Verb.LOOK: Role.VIEWER,
    Verb.TRACE: Role.VIEWER,
    Verb.READ: Role.USER,
    Verb.CREATE: Role.USER,
    Verb.DELETE: Role.USER,
    Verb.OPERATE: Role.OPERATOR,
}  # exec is a right of its own, and no role has the right to OTHER
RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Credential:
    """One caller. Either `token_sha256` or `certificate` is set."""

    name: str
    role: Role
    namespaces: tuple[str, ...]  # patterns
    exec: bool = False
    token_sha256: str = ""  # in hexadecimal
    certificate: str = ""  # a URI (SPIFFE), a DNS name or a common name in the client's certificate
    created_at_s: float = 0.0
    created_by: str = ""  # the name of the caller that created it
    expires_at_s: float = 0.0  # 0 = never

    def expired(self, now_s: float) -> bool:
        """Whether it is too late to use it."""
        return 0 < self.expires_at_s <= now_s


@dataclass(frozen=True, slots=True)
class PutCredential:
    """A credential is new."""

    credential: Credential


@dataclass(frozen=True, slots=True)
class DropCredential:
    """A credential was revoked."""

    name: str


# The caller that has proven --basic-auth-token.
SHARED = Credential("shared", Role.OPERATOR, (EVERYWHERE,), exec=True)


def may(who: Credential, verb: Verb, namespace: str | None = None) -> str | None:
    """Why a caller may not do this, and what would help; None = it may.

    `namespace` None: the call is about no single namespace, or its answer is filtered by `covers`.
    """
    if who is SHARED:
        return None
    allowed = who.exec if verb is Verb.EXEC else verb in NEEDS and RANK[who.role] >= RANK[NEEDS[verb]]
    if allowed and (namespace is None or covers(who, namespace)):
        return None
    where = "" if namespace is None else f" in namespace {_shown(namespace)}"
    return without_not_found(f"{who.name} may not {verb}{where}: {_rights(who)}; {_remedy(verb, namespace)}")


def covers(who: Credential, namespace: str) -> bool:
    """Whether a caller has rights in a namespace."""
    return any(matches(pattern, namespace) for pattern in who.namespaces)


def matches(pattern: str, namespace: str) -> bool:
    """Whether a namespace is one that a pattern means."""
    if pattern.endswith("*"):
        return namespace.startswith(pattern[:-1])
    return namespace == pattern


def _shown(namespace: str) -> str:
    """A namespace as a text that a client has chosen: without control characters, and not of any length."""
    return namespace if _is_text(namespace) else repr(namespace[:TEXT_MAX_CHARS])


def _rights(who: Credential) -> str:
    more = len(who.namespaces) - PATTERNS_SHOWN
    where = ", ".join(who.namespaces[:PATTERNS_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"it has role {who.role} in {where}" + (" with exec" if who.exec else "")


def _remedy(verb: Verb, namespace: str | None) -> str:
    if verb is Verb.OTHER:
        return "upgrade Billet, or call with --basic-auth-token"
    role = Role.USER if verb is Verb.EXEC else NEEDS[verb]
    options = f"--role {role}" + ("" if role is Role.OPERATOR else f" --namespace {_shown(namespace or 'NAMESPACE')}")
    return f"needed: `billet token create NAME {options}{' --exec' if verb is Verb.EXEC else ''}`, by an operator"


def invalid(new: Credential) -> str | None:
    """Why there can be no such credential; None = there can."""
    if not NAME.fullmatch(new.name) or new.name in (SHARED.name, ITSELF):
        return (
            f"{new.name!r} cannot be a credential's name: use 1 to 63 letters, digits and . _ @ -, beginning with a "
            f"letter or digit; {SHARED.name!r} stands for --basic-auth-token, and {ITSELF!r} for Billet itself"
        )
    if bool(new.token_sha256) == bool(new.certificate):
        return "a credential has either a token or the name in a certificate"
    if new.token_sha256 and not SHA256.fullmatch(new.token_sha256):
        return "the hash of the token is not a SHA-256 in hexadecimal"
    if not _is_text(new.certificate or "-"):
        return f"the certificate's name must be 1 to {TEXT_MAX_CHARS} printable characters without spaces"
    return _invalid_rights(new)


def _invalid_rights(new: Credential) -> str | None:
    if new.role is Role.OPERATOR and new.namespaces != (EVERYWHERE,):
        return "an operator has its rights in all namespaces: leave --namespace out, or choose another role"
    if new.role is Role.VIEWER and new.exec:
        return "a viewer cannot have exec: choose role user"
    if not new.namespaces:
        return f"a {new.role} needs a namespace: give --namespace, for example 'ci-*', or '{EVERYWHERE}' for all"
    if len(new.namespaces) > PATTERNS_MAX:
        return f"{len(new.namespaces)} namespaces are too many: at most {PATTERNS_MAX}; use a pattern"
    for pattern in new.namespaces:
        if not _is_text(pattern) or "*" in pattern[:-1]:
            return f"{pattern!r} is not a namespace: give a name, or a beginning with * at its end, for example ci-*"
    return None


def _is_text(text: str) -> bool:
    return 0 < len(text) <= TEXT_MAX_CHARS and text.isprintable() and " " not in text


def conflict(new: Credential, known: Iterable[Credential]) -> str | None:
    """Why a credential cannot join these; None = it can. One that is there already, as it is, is no conflict."""
    for other in known:
        if other.name == new.name and not same(new, other):
            return f"there is a credential {new.name!r} already: choose another name, or revoke it first"
        if other.name == new.name:
            continue
        if new.token_sha256 and other.token_sha256 == new.token_sha256:
            return f"credential {other.name!r} has this token already: let the command make a new one"
        if new.certificate and other.certificate == new.certificate:
            return f"certificate name {new.certificate!r} belongs to credential {other.name!r}: revoke that one first"
    return None


def same(new: Credential, known: Credential) -> bool:
    """Whether a credential was created by the same request, sent again."""
    return (new.name, new.role, new.namespaces, new.exec, new.token_sha256, new.certificate) == (
        known.name, known.role, known.namespaces, known.exec, known.token_sha256, known.certificate,
    )  # fmt: skip


def locks_out(known: Iterable[Credential], now_s: float) -> bool:
    """Whether none of these could create and revoke credentials."""
    return not any(credential.role is Role.OPERATOR and not credential.expired(now_s) for credential in known)
