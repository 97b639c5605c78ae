"""A MicroVMSpec from a file that a person wrote."""

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
    """The spec in a YAML or JSON file, "-" for standard input; InvalidRequest says where it is wrong."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_spec(text, "standard input" if path == "-" else path)


def parse_spec(text: str, source: str) -> MicroVMSpec:
    """A spec with Flintlock's field names, snake_case or camelCase; `source` is named in errors.

    `metadata_text` is ours: its values are base64-encoded into `metadata`, as flintlockd wants them, so that a
    cloud-config can be written down as it is. A request's outer `microvm:` may be there or not.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{source} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if isinstance(tree, dict) and isinstance(tree.get("microvm"), dict):
        tree = tree["microvm"]
    if not isinstance(tree, dict):
        raise InvalidRequest(f"{source} holds no MicroVMSpec; write its fields, for example `vcpu: 2`")
    tree = dict(tree)
    plain = tree.pop("metadata_text", {})
    if plain:
        tree["metadata"] = {**tree.get("metadata", {}), **_encoded(plain, source)}
    for field in ("labels", "metadata"):
        for key, value in tree[field].items() if isinstance(tree.get(field), dict) else ():
            if not isinstance(value, str):
                raise InvalidRequest(
                    f"{source}: {field}: {key} is {json.dumps(value, default=str)}; put it in quotes"
                )
    try:
        return ParseDict(tree, MicroVMSpec())
    except ParseError as error:
        raise InvalidRequest(f"{source} is not a MicroVMSpec: {_in_words(str(error), tree)}") from None


def _in_words(error: str, tree: Mapping[str, Any]) -> str:
    """protobuf's words for people: where it is, what is wrong there, and the names as this file writes them."""
    *path, what = re.split(r"Failed to parse (\w+) field: ", error)
    where = ".".join(name for name in path if name)
    unknown = re.match(r'Message type "[\w.]+" has no field named "(\w+)"', what)
    if not unknown:
        what = re.sub(r"[. ]*( at MicroVMSpec[\w.\[\]]*)?[. ]*$", "", what)
        what = re.sub(r"^invalid literal for int\(\) with base 10: (.*)$", r"\1 is not a whole number", what)
        return f"{where}: {what}" if where else what
    name, known = unknown[1], re.findall(r"'(\w+)'", what)
    if not re.search(r"'\w*[a-z][A-Z]\w*': ", str(tree)):
        known = [re.sub("([A-Z])", r"_\1", one).lower() for one in known]
    meant = get_close_matches(name, known, 1)
    helps = f"did you mean {meant[0]}?" if meant else f"its fields are {', '.join(known)}"
    return f'{where or "it"} has no field named "{name}"; {helps}'


def _encoded(plain: Any, source: str) -> dict[str, str]:
    if not isinstance(plain, dict) or not all(isinstance(value, str) for value in plain.values()):
        raise InvalidRequest(f"{source}: metadata_text must map names to texts, for example `user-data: |`")
    return {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}


def copies(spec: MicroVMSpec, name: str, namespace: str, count: int) -> list[MicroVMSpec]:
    """The specs to send: one, or `count` with numbered names."""
    made = []
    for number in range(1, count + 1):
        copy = MicroVMSpec()
        copy.CopyFrom(spec)
        copy.id = name or copy.id
        copy.namespace = namespace or copy.namespace
        if count > 1:
            copy.id = f"{copy.id}-{number}"
        made.append(copy)
    return made
