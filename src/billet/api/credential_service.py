"""The methods of billet.v1.Fleet that list, create and revoke credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import isfinite

from billet.api.fleet_service import CREATE_CREDENTIAL, CREDENTIALS, REVOKE_CREDENTIAL, Method
from billet.core.access import EVERYWHERE, Credential, Role
from billet.core.errors import InvalidRequest
from billet.leader.credentials import Credentials
from billet.ports import Answer
from billet.wire.flintlock import parse
from billet.wire.headers import IDENTITY
from billet.wire.pb import fleet_pb2 as pb

LONGEST_S = 1e9  # until a credential expires: 30 years
ROLES = {pb.VIEWER: Role.VIEWER, pb.USER: Role.USER, pb.OPERATOR: Role.OPERATOR}
NUMBERS = {role: number for number, role in ROLES.items()}


def credential_methods(credentials: Credentials) -> dict[str, Method]:
    """The methods by full name."""

    async def listed(request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        views = [credential_view(one, credentials.expired(one)) for one in credentials.all()]
        return Answer(pb.CredentialsReply(credentials=views).SerializeToString())

    async def create(request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        wanted = parse(pb.CreateCredentialRequest, request)
        if not (isfinite(wanted.expires_in_s) and 0 <= wanted.expires_in_s <= LONGEST_S):
            raise InvalidRequest(f"expires_in_s is {wanted.expires_in_s:g}; give 0 for never, or up to {LONGEST_S:g}")
        # Shielded: a client that disconnects must not stop it between the commit and the ledger.
        made = await asyncio.shield(
            credentials.create(read_credential(wanted), wanted.expires_in_s, metadata.get(IDENTITY, ""))
        )
        view = credential_view(made, credentials.expired(made))
        return Answer(pb.CreateCredentialReply(credential=view).SerializeToString())

    async def revoke(request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        name = parse(pb.RevokeCredentialRequest, request).name
        await asyncio.shield(credentials.revoke(name, metadata.get(IDENTITY, "")))
        return Answer(pb.RevokeCredentialReply().SerializeToString())

    return {CREDENTIALS: listed, CREATE_CREDENTIAL: create, REVOKE_CREDENTIAL: revoke}


def read_credential(wanted: pb.CreateCredentialRequest) -> Credential:
    """The credential that a request asks for. Raises InvalidRequest."""
    role = ROLES.get(wanted.role)
    if role is None:
        raise InvalidRequest("the request names no role: give viewer, user or operator")
    everywhere = () if role is Role.USER else (EVERYWHERE,)
    return Credential(
        wanted.name,
        role,
        tuple(wanted.namespaces) or everywhere,
        wanted.exec,
        wanted.token_sha256,
        wanted.certificate,
    )


def credential_view(credential: Credential, expired: bool) -> pb.CredentialView:
    """One credential, without the hash of its token."""
    return pb.CredentialView(
        name=credential.name,
        role=NUMBERS[credential.role],
        namespaces=credential.namespaces,
        exec=credential.exec,
        certificate=credential.certificate,
        created_at_s=credential.created_at_s,
        created_by=credential.created_by,
        expires_at_s=credential.expires_at_s,
        expired=expired,
    )
