"""Requests that no host may get: they crash or cripple flintlockd, or are too large to be recorded."""

from __future__ import annotations

from collections.abc import Mapping

from billet.core.constraints import CLUSTER_LABEL, PREFIX
from billet.core.errors import Code, HostVerdict, InvalidRequest
from billet.wire.pb import flintlock_types_pb2 as types

NO_NAME = "converting request: creating vmid from spec: name is required"
NAME_MAX_BYTES = 1024  # of a microVM's id, and of its namespace
LABELS_MAX_BYTES = 16_384  # of all labels that Billet keeps, keys and values


def refuse_poison(vm: types.MicroVMSpec) -> None:
    """Raise InvalidRequest for the kinds of spec that crash or cripple flintlockd.

    Without a name it is flintlockd's own refusal: the name is what it checks first, and then it does not crash.
    """
    problem = poison(vm)
    if problem and not vm.id:
        raise HostVerdict(Code.UNKNOWN, NO_NAME)
    if problem:
        raise InvalidRequest(problem)


def poison(vm: types.MicroVMSpec) -> str:
    """What crashes or cripples flintlockd in this spec, and what would help; "" = nothing."""
    for what, name in (("id", vm.id), ("namespace", vm.namespace)):
        if "/" in name or "\\" in name:
            return (
                f"{what} {name!r} has a slash or backslash, after which flintlockd can list no microVM any more, or "
                "never deletes this one: use letters, digits, '-', '_' and '.'"
            )
        if not name.isprintable():
            return f"{what} {name!r} has characters that cannot be printed, which flintlockd refuses too"
    for nic in vm.interfaces:
        if nic.HasField("overrides") and not nic.overrides.HasField("bridge_name"):
            return (
                f"interface {nic.device_id!r} has overrides without bridge_name, which crashes flintlockd: "
                "set overrides.bridge_name or leave overrides out"
            )
    if not vm.HasField("kernel") or vm.kernel == types.Kernel():
        return (
            "kernel is empty, which crashes flintlockd when it boots the microVM: "
            "set kernel.image and kernel.filename"
        )
    return ""


def refuse_oversized(vm: types.MicroVMSpec, labels: Mapping[str, str]) -> None:
    """Raise InvalidRequest if the placement's record would be too large, or its labels could not be shown.

    `labels`: those that Billet keeps.
    """
    for key, value in labels.items():
        if not (key + value).isprintable():
            raise InvalidRequest(f"label {key!r} has characters that cannot be printed")
    for field, text in (("id", vm.id), ("namespace", vm.namespace)):
        if len(text.encode()) > NAME_MAX_BYTES:
            raise InvalidRequest(f"{field} has {len(text.encode())} bytes; at most {NAME_MAX_BYTES} are allowed")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in labels.items())
    if size > LABELS_MAX_BYTES:
        raise InvalidRequest(
            f"the labels that Billet keeps ({PREFIX}…, {CLUSTER_LABEL}) have {size} bytes; "
            f"at most {LABELS_MAX_BYTES} are allowed"
        )
