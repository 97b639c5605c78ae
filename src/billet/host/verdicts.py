"""What flintlockd's error texts mean. After a create: whether it has the microVM now, and whose fault a failure is.

flintlockd has one code (UNKNOWN) for nearly every failure, so the beginning of the text decides. It saves a microVM
first and publishes an event then: what fails before the save has created nothing, what fails after it has.

A text that is not known here may come from a newer flintlockd, or from a part that has never failed so far. Nobody
knows then whether the microVM exists, or whose fault it is. So its token is looked up, as after a lost answer, and
no other host is asked whatever the result: at most one host ever has it. If flintlockd shows no such microVM, its
words are passed on as they are, as if the client had called it directly: a newer flintlockd's verdict on a spec
must not become an error that is worth a retry.
"""

from __future__ import annotations

import shlex
from enum import Enum

from billet.core.errors import Code


class Meaning(Enum):
    """What a failed create has left behind, and what it says of the host."""

    VERDICT = "the spec is refused, and every flintlockd would refuse it; nothing was created"
    HOST_FAULT = "the host's own fault; nothing was created, so another host may be asked"
    BUSY = "two writers met at one record; nothing was created, so the same host may be asked again"
    OUTCOME_UNKNOWN = "the microVM may exist"
    UNRECOGNISED = "not known here: the microVM may exist, and no other host may be asked"


BROKEN = "Stream removed"  # text of the status UNKNOWN that gRPC may report for a broken connection
_UNANSWERED = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.INTERNAL})
_NOT_ADMITTED = frozenset({Code.UNAUTHENTICATED, Code.PERMISSION_DENIED})  # this agent, by its own flintlockd

_SAVING = "creating microvm: saving microvm spec: "
_VERDICTS = (
    "converting request: ",
    "creating microvm: an error occurred when attempting to validate",
    "creating microvm: microvm provider ",
    "creating microvm: adding instance data: ",
)
_NOT_CAPABLE = "not supported by the microvm provider"
_BEFORE_THE_SAVE = (
    "creating microvm: checking to see if spec exists: ",
    "creating microvm: generating random ",
    *(
        _SAVING + step
        for step in (
            "getting vm spec ",
            "getting lease ",
            "getting containerd writer: ",
            "marshalling ",
            "writing data ",
        )
    ),
)
_FROM_THE_SAVE_ON = ("creating microvm: publishing ", _SAVING)
_BAD_NAME = ("filters: parse error", "non-printable ASCII")  # the id or the namespace, which containerd cannot take
_RACES = ("locked for", "failed reading from content store")  # two calls, or a call and a removal, met at one record
_UNREADABLE = "unexpected vmid format: "  # then namespace, id and uid, of which the first two have a slash


def meaning(code: int, text: str) -> Meaning:
    """What an answer other than OK means."""
    if code in _UNANSWERED or (code == Code.UNKNOWN and text == BROKEN):
        return Meaning.OUTCOME_UNKNOWN
    if code in _NOT_ADMITTED:
        return Meaning.HOST_FAULT
    if code != Code.UNKNOWN or text.startswith(_VERDICTS) or _NOT_CAPABLE in text:
        return Meaning.VERDICT
    if text.startswith(_BEFORE_THE_SAVE):
        if any(words in text for words in _BAD_NAME):
            return Meaning.VERDICT
        return Meaning.BUSY if passes(code, text) else Meaning.HOST_FAULT
    return Meaning.OUTCOME_UNKNOWN if text.startswith(_FROM_THE_SAVE_ON) else Meaning.UNRECOGNISED


def passes(code: int, text: str) -> bool:
    """Whether a call has failed by a race: its work is not done, and it succeeds when it is repeated.

    Not for a create that has failed from the save on.
    """
    return code == Code.UNKNOWN and any(words in text for words in _RACES)


def why_no_list(code: int, text: str, namespace: str) -> str:
    """Why flintlockd lists no microVMs, and what helps; "" = it does not answer, which is all that is known.

    `namespace` is the one that flintlockd has in containerd.
    """
    if code in _UNANSWERED or text == BROKEN:
        return ""
    _, poisoned, vmid = text.partition(_UNREADABLE)
    if poisoned:
        lease = shlex.quote(f"flintlock/{vmid.strip()}")
        return (
            f"flintlockd cannot read the record of microVM {vmid.strip()}, whose name has a slash, and so it lists "
            f"none: remove it on the host by `ctr -n {shlex.quote(namespace)} leases rm --sync {lease}`"
        )
    return f"flintlockd lists no microVMs: {text}"
