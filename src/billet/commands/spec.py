"""Reads a MicroVMSpec from a YAML or JSON file."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import ParseDict, ParseError

from billet.core.errors import InvalidRequest
from billet.wire.pb.flintlock_types_pb2 import MicroVMSpec


def read_spec(path: str) -> MicroVMSpec:
    """Read the spec in a YAML or JSON file, "-" for standard input. Raises InvalidRequest with the wrong field."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_spec(text, "standard input" if path == "-" else path)


def parse_spec(text: str, source: str) -> MicroVMSpec:
    """Parse a spec with Flintlock's field names, in snake_case or camelCase. Errors name `source`.

    `metadata_text` is an addition of Billet: its values are base64-encoded into `metadata`, as flintlockd requires,
    so that a cloud-config can be written as plain text. The outer `microvm:` of a request is optional.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{source} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number with more digits than Python reads, a date
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"{source} is not a MicroVMSpec: {why}") from None
    if isinstance(tree, dict) and isinstance(tree.get("microvm"), dict):
        tree = tree["microvm"]
    if not isinstance(tree, dict):
        raise InvalidRequest(f"{source} contains no MicroVMSpec; write its fields, for example `vcpu: 2`")
    tree = dict(tree)
    plain = tree.pop("metadata_text", {})
    if plain:
        tree["metadata"] = {**_mapping(tree.get("metadata", {}), source), **_encoded(plain, source)}
    for field in ("labels", "metadata"):
        for key, value in tree[field].items() if isinstance(tree.get(field), dict) else ():
            if not isinstance(value, str):
                raise InvalidRequest(
                    f"{source}: {field}: {key} is {json.dumps(value, default=str)}; put it in quotes"
                )
    return _message(tree, source)


def _mapping(metadata: Any, source: str) -> dict[Any, Any]:
    if not isinstance(metadata, dict):
        raise InvalidRequest(
            f"{source}: metadata is {json.dumps(metadata, default=str)}; write keys and values below it"
        )
    return metadata


def _message(tree: dict[str, Any], source: str) -> MicroVMSpec:
    try:
        return ParseDict(tree, MicroVMSpec())
    except ParseError as error:
        raise InvalidRequest(f"{source} is not a MicroVMSpec: {_readable(str(error), tree)}") from None
    except SystemError:  # protobuf's answer to a name that cannot be encoded
        raise InvalidRequest(f"{source} is not a MicroVMSpec: a name in it has half of a surrogate pair") from None


def _readable(error: str, tree: Mapping[str, Any]) -> str:
    """protobuf's error text as "path: problem", with field names in the file's own style."""
    *path, problem = re.split(r"Failed to parse (\w+) field: ", error)
    where = ".".join(name for name in path if name)
    unknown = re.match(r'Message type "[\w.]+" has no field named "(\w+)"', problem)
    if not unknown:
        problem = re.sub(r"[. ]*( at MicroVMSpec[\w.\[\]]*)?[. ]*$", "", problem)
        problem = re.sub(r"^invalid literal for int\(\) with base 10: (.*)$", r"\1 is not a whole number", problem)
        return f"{where}: {problem}" if where else problem
    name, known = unknown[1], re.findall(r"'(\w+)'", problem)
    if not re.search(r"'\w*[a-z][A-Z]\w*': ", str(tree)):
        known = [re.sub("([A-Z])", r"_\1", one).lower() for one in known]
    meant = get_close_matches(name, known, 1)
    hint = f"did you mean {meant[0]}?" if meant else f"its fields are {', '.join(known)}"
    return f'{where or "it"} has no field named "{name}"; {hint}'


def _encoded(plain: Any, source: str) -> dict[str, str]:
    if not isinstance(plain, dict) or not all(isinstance(value, str) for value in plain.values()):
        raise InvalidRequest(f"{source}: metadata_text must map names to strings, for example `user-data: |`")
    return {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}


def copies(spec: MicroVMSpec, name: str, namespace: str, count: int) -> list[MicroVMSpec]:
    """The specs to send: one, or `count` with numbered names."""
    specs = []
    for number in range(1, count + 1):
        copy = MicroVMSpec()
        copy.CopyFrom(spec)
        copy.id = name or copy.id
        copy.namespace = namespace or copy.namespace
        if count > 1:
            copy.id = f"{copy.id}-{number}"
        specs.append(copy)
    return specs
