"""What a change is about, for the audit log: read from the request, and from what the leader says with its reply."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from billet.api import fleet_service as fleet
from billet.core.errors import InvalidRequest
from billet.core.metadata import Metadata
from billet.core.model import Placement
from billet.ports import Answer
from billet.wire import flintlock as wire
from billet.wire.headers import ABOUT
from billet.wire.pb import fleet_pb2 as pb

TEXT_CHARS = 256  # of a text that a client chose
ROLES = {number: name.lower() for name, number in pb.Role.items()}

Facts = dict[str, Any]


def about(placement: Placement | None) -> Metadata:
    """The trailer by which the leader says what a change was about."""
    if placement is None:
        return ()
    facts = {
        "namespace": placement.namespace, "name": placement.name, "uid": placement.uid, "host": placement.host,
        "auction": "" if placement.adopted else placement.id,
    }  # fmt: skip
    return ((ABOUT, json.dumps({key: value for key, value in facts.items() if value})),)


def what(method: str, request: bytes) -> str:
    """What a call would do; "" = it changes nothing."""
    match method:
        case wire.CREATE:
            return "create"
        case wire.DELETE:
            return "delete"
        case fleet.CHANGE_HOST:
            with suppress(InvalidRequest, ValueError):  # ValueError: a verb of a newer version
                verb = wire.parse(pb.ChangeHostRequest, request).verb
                return pb.HostVerb.Name(verb).lower().replace("_", "-")
            return "change-host"
        case fleet.CREATE_CREDENTIAL:
            return "token-create"
        case fleet.REVOKE_CREDENTIAL:
            return "token-revoke"
        case _:
            return ""


def asked(method: str, request: bytes) -> Facts:
    """What a request is about, as far as it can be read."""
    facts: Facts = {}
    with suppress(InvalidRequest):
        match method:
            case wire.CREATE:
                facts["namespace"], facts["name"] = wire.read_name(request)
            case wire.DELETE | wire.GET:
                facts["uid"] = wire.read_uid(request)
            case fleet.CHANGE_HOST:
                wanted = wire.parse(pb.ChangeHostRequest, request)
                facts = {"host": wanted.host, "to": wanted.to}
            case fleet.CREATE_CREDENTIAL:
                facts = _credential(wire.parse(pb.CreateCredentialRequest, request))
            case fleet.REVOKE_CREDENTIAL:
                facts["credential"] = wire.parse(pb.RevokeCredentialRequest, request).name
    return {key: cut(str(value)) for key, value in facts.items() if value}


def _credential(wanted: pb.CreateCredentialRequest) -> Facts:
    """What a new credential may do; not the hash of its token."""
    return {
        "credential": wanted.name, "role": ROLES.get(wanted.role, str(wanted.role)),
        "namespaces": ",".join(wanted.namespaces), "exec": "yes" if wanted.exec else "",
        "certificate": wanted.certificate,
    }  # fmt: skip


def told(method: str, answer: Answer) -> Facts:
    """What the leader's reply adds."""
    if method == fleet.CHANGE_HOST:
        released = pb.ChangeHostReply.FromString(answer.payload).released
        return {"released": released} if released else {}
    given = next((value for key, value in answer.trailers if key == ABOUT), "")
    with suppress(ValueError):
        facts = json.loads(given)
        if isinstance(facts, dict):
            return {str(key): cut(str(value)) for key, value in facts.items()}
    return {}


def cut(text: str) -> str:
    """The beginning of a text that a client chose."""
    return text[:TEXT_CHARS]
