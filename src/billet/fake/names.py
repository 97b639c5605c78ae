"""What flintlockd makes of an id and a namespace. They become parts of a path, a containerd filter and a lease's id.

Some characters are refused, with texts of containerd. Two are accepted and do harm: a slash makes the record
unreadable, and with it every List; a backslash lets its microVM wait for ever.
"""

from __future__ import annotations

from billet.wire.pb import flintlock_types_pb2 as types

PATH_MAX_BYTES = 255  # of one folder's name

_CHECKING = "checking to see if spec exists: getting vm spec from store: finding content in store: "
_SAVING = "saving microvm spec: getting lease for owner: "
_PARSE_ERROR = "filters: parse error"


def refusal(spec: types.MicroVMSpec) -> str:
    """flintlockd's text, without its beginning, for a name that containerd cannot take; "" = it can."""
    name = spec.id + spec.namespace
    if '"' in name or "\n" in name:
        return f"{_CHECKING}walking content store for {spec.id}: {_PARSE_ERROR}: [labels.name==: expected a value]"
    if any(char in " ,\t" or ord(char) < 0x20 or ord(char) == 0x7F for char in name):
        return f"{_SAVING}checking for lease: {_PARSE_ERROR}: [id== >|<: unexpected input]"
    if not name.isascii():
        header = 'header key "containerd-lease" contains value with non-printable ASCII characters'
        return f"saving microvm spec: getting containerd writer: rpc error: code = Internal desc = {header}"
    return ""


def is_unreadable(spec: types.MicroVMSpec) -> bool:
    """Whether nobody can read the record any more."""
    return "/" in spec.id + spec.namespace


def never_ends(spec: types.MicroVMSpec) -> bool:
    """Whether the microVM's boot and its Delete are tried without end. flintlockd spins then; others go on."""
    return "\\" in spec.id + spec.namespace


def cannot_boot(spec: types.MicroVMSpec) -> bool:
    """Whether each boot fails, because a folder cannot have this name."""
    return max(len(spec.id), len(spec.namespace)) > PATH_MAX_BYTES


def cannot_resolve(image: str) -> bool:
    """Whether an image cannot be pulled, because its registry is below .invalid, where nothing exists (RFC 2606)."""
    return image.partition("/")[0].partition(":")[0].endswith(".invalid")


def unreadable(spec: types.MicroVMSpec) -> str:
    """The end of the text of every call that reads an unreadable record."""
    vmid = f"{spec.namespace}/{spec.id}/{spec.uid}"
    return f"unmarshalling json content to microvm: parsing vmid from string: unexpected vmid format: {vmid}"
