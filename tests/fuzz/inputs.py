"""Inputs for parsers: changed copies of real ones, protobuf messages of a kind, and JSON of any shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

INT_LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
SPECIAL = [
    b"\0", b"\xff" * 10, b"\x80" * 10, b"\n", b"\r\n", b'"', b"{", b"}", b"[" * 3000, b'{"a":' * 3000, b"-1",
    b"1e999", b"NaN", b"Infinity", b"null", b"\\ud800", b"\xed\xa0\x80", b"9" * 400, b"9" * 5000, b"\x1b[31m",
    b"not found", b",", b";", b"=", b"%", b"\t", b"\xef\xbb\xbf", b"\x00\x00\x00\x00", b"0", b"true",
]  # fmt: skip
texts = st.text(max_size=20) | st.sampled_from(["", "not found", "\x1b]0;x\x07", "a\nb", "\u202e", "x" * 5000, "{}"])


@st.composite
def changed(draw: Any, samples: Sequence[bytes]) -> bytes:
    """One of the samples with up to six changes, or bytes by chance."""
    data = bytearray(draw(st.sampled_from(samples) | st.binary(max_size=100)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0:
                data[at:at] = draw(st.binary(max_size=8))
            case 1:
                del data[at : at + draw(st.integers(1, 32))]
            case 2 if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 3:
                data[at : at + draw(st.integers(0, 4))] = draw(st.sampled_from(SPECIAL))
            case 4:
                data[at:at] = data[: draw(st.integers(0, 64))]
            case 5:
                other = draw(st.sampled_from(samples))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Messages of a kind: any of their fields, with any value that protobuf can carry."""
    return _messages(kind, 4)


@st.composite
def _messages(draw: Any, kind: type[Message], depth: int) -> Message:
    message = kind()
    fields = [field for field in message.DESCRIPTOR.fields if depth or field.message_type is None]
    if not fields:
        return message
    for field in draw(st.lists(st.sampled_from(fields), max_size=8, unique_by=lambda field: field.number)):
        _fill(draw, message, field, depth)
    return message


def _fill(draw: Any, message: Any, field: FieldDescriptor, depth: int) -> None:
    value = getattr(message, field.name)
    many = draw(st.integers(1, 3))
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, of = field.message_type.fields
        for _ in range(many):
            if of.message_type:
                value[draw(_scalar(key))].MergeFrom(draw(_messages(GetMessageClass(of.message_type), depth - 1)))
            else:
                value[draw(_scalar(key))] = draw(_scalar(of))
    elif field.message_type:
        kind = GetMessageClass(field.message_type)
        for _ in range(many if field.is_repeated else 1):
            part = draw(_messages(kind, depth - 1))
            value.append(part) if field.is_repeated else value.CopyFrom(part)
    elif field.is_repeated:
        value.extend(draw(_scalar(field)) for _ in range(many))
    else:
        setattr(message, field.name, draw(_scalar(field)))


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.binary(max_size=40) if field.type == FieldDescriptor.TYPE_BYTES else texts
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.integers(-1, 12)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats()
        case FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats(width=32)
        case kind:
            low, high = INT_LIMITS[kind]
            return st.sampled_from([0, 1, low, high]) | st.integers(low, high)


def documents(names: Sequence[str]) -> st.SearchStrategy[bytes]:
    """JSON of any shape; the keys of objects are often these names."""
    leaves = (
        st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([10**30, -1, 1e308, 2**63])
    )
    keys = st.sampled_from(names) | st.text(max_size=5)
    trees = st.recursive(leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(keys, each, max_size=5))
    return trees.map(lambda tree: json.dumps(tree).encode())


def names_of(kind: type[Message]) -> list[str]:
    """The names of all fields of a message, and of those within it, as protobuf's JSON has them."""
    found: dict[str, None] = {}

    def look(descriptor: Any, depth: int) -> None:
        for field in descriptor.fields:
            found[field.json_name] = None
            if field.message_type and depth:
                look(field.message_type, depth - 1)

    look(kind.DESCRIPTOR, 4)
    return list(found)
