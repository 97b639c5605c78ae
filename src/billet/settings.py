"""What a setting is: its meaning, how it is written, and what it cannot be. config.py has the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from billet.core.errors import ConfigError
from billet.core.policies import POLICIES
from billet.core.quotas import read_quota

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STORE_SCHEMES = ("sqlite:///", "etcd://", "etcds://")


class About(NamedTuple):
    """What is known about one setting besides its name, type and default."""

    section: str
    text: str
    low: float | None = None
    high: float | None = None
    kind: str = ""  # one of those in FORMS and _check_kind, or "secret"; those with a "?" may be empty


def setting(default: Any, section: str, text: str, **limits: Any) -> Any:
    """A field with its meaning. Secrets stay out of `repr`, and so out of logs."""
    about = About(section, text, **limits)
    shown = about.kind != "secret"
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"about": about}, repr=shown)
    return field(default=default, metadata={"about": about}, repr=shown)


NORTH = "What clients dial"
LINK = "The agents' link"
STORE = "The store"
AUCTION = "Auctions"
SCORE = "The score"
SOUTH = "This host's flintlockd"
MACHINE = "What this host offers"
MISC = "Other"


ONE_OF = {"labels": "label", "servers": "server", "quotas": "quota", "zone_endpoints": "endpoint"}


def flag(name: str) -> str:
    """A setting's name as a person types it; of one that may be given again, one at a time."""
    return "--" + ONE_OF.get(name, name).replace("_", "-")


def split_endpoint(text: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"; ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(text)
    return host.strip("[]"), int(port)


def split_zone(text: str) -> tuple[str, str]:
    """("a", "HOST:PORT") of "zone=a,listen=HOST:PORT"; ValueError when it is not that."""
    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if set(pairs) != {"zone", "listen"} or not pairs["zone"]:
        raise ValueError(text)
    split_endpoint(pairs["listen"])
    return pairs["zone"], pairs["listen"]


def check_fields(config: DataclassInstance) -> None:
    """ConfigError for the first setting that cannot be as it is."""
    for item in fields(config):
        about: About = item.metadata["about"]
        value = getattr(config, item.name)
        if isinstance(value, float) and not isfinite(value):  # TOML has nan and inf, and float() reads them
            raise ConfigError(f"{flag(item.name)} is {value}; give a number")
        if about.low is not None and value < about.low:
            raise ConfigError(f"{flag(item.name)} is {value}; the least is {about.low:g}")
        if about.high is not None and value > about.high:
            raise ConfigError(f"{flag(item.name)} is {value}; the most is {about.high:g}")
        _check_kind(flag(item.name), about.kind, value)


ENDPOINT = (split_endpoint, "HOST:PORT, for example localhost:9090")
FORMS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "endpoint": ENDPOINT,
    "endpoint?": ENDPOINT,  # may be empty
    "endpoints": ENDPOINT,
    "zones": (split_zone, "zone=NAME,listen=HOST:PORT"),
    "quotas": (read_quota, "for example vcpu:64,memory_mib:131072,vms:20"),
}


def _check_kind(name: str, kind: str, value: Any) -> None:
    match kind:
        case _ if kind.endswith("?") and not value:
            pass
        case "endpoints" if not value:
            raise ConfigError(f"{name} is empty; give at least one HOST:PORT")
        case _ if kind in FORMS:
            _check_form(name, value, *FORMS[kind])
        case "file" if value and not Path(value).is_file():
            raise ConfigError(f"{name} is {value!r}, which is not a file that can be read; check the path")
        case "folder" if not Path(value).is_dir():
            raise ConfigError(f"{name} is {value!r}, which is not a folder; make it, or give another")
        case "policy" | "policy?" if value not in POLICIES:
            raise ConfigError(f"{name} is {value!r}; there are {', '.join(POLICIES)}")
        case "store" if not value.startswith(STORE_SCHEMES):
            raise ConfigError(f"{name} is {value!r}; write sqlite:///PATH or etcd://HOST:PORT,HOST:PORT")


def check_endpoint(name: str, value: str) -> None:
    """ConfigError, with the name of the setting, unless it is HOST:PORT."""
    _check_form(name, value, *ENDPOINT)


def _check_form(name: str, value: Any, read: Callable[[str], Any], form: str) -> None:
    """Each text that a setting consists of has to be readable."""
    if isinstance(value, Mapping):
        texts = [(f"{name} of {key}", text) for key, text in value.items()]
    else:
        texts = [(name, text) for text in ((value,) if isinstance(value, str) else value)]
    for what, text in texts:
        try:
            read(text)
        except ValueError:
            raise ConfigError(f"{what} is {text!r}; write {form}") from None


def check_pair(cert: str, key: str, cert_name: str, key_name: str) -> None:
    """ConfigError where one of two is given without the other."""
    if bool(cert) != bool(key):
        given, missing = (cert_name, key_name) if cert else (key_name, cert_name)
        raise ConfigError(f"--{given} is set and --{missing} is not; give both or neither")


def check_edge(insecure: bool, cert: str, key: str, flag_name: str, cert_name: str, key_name: str) -> None:
    """ConfigError unless a listening edge has TLS with both files, or is plainly without."""
    check_pair(cert, key, cert_name, key_name)
    if insecure and cert:
        raise ConfigError(f"--{flag_name} and --{cert_name} contradict each other; drop one of them")
    if not insecure and not cert:
        raise ConfigError(f"give --{cert_name} and --{key_name}, or --{flag_name} to do without TLS")
