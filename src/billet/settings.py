"""Building blocks of a setting: help text, written form and limits. config.py and config_agent.py use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from billet.core.errors import ConfigError
from billet.core.policies import POLICIES
from billet.core.quotas import read_quota
from billet.wire.secret import FileText

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHOICES = {  # by kind
    "join": ("open", "approve"),
    "log-format": ("text", "json"),
    "log-level": ("debug", "info", "warning", "error"),
}
STORE_SCHEMES = ("sqlite:///", "etcd://", "etcds://")


class SettingInfo(NamedTuple):
    """Metadata of one setting besides its name, type and default."""

    section: str
    text: str
    low: float | None = None
    high: float | None = None
    kind: str = ""  # a key of FORMS, a case of _check_kind, or "secret"; a kind that ends in "?" may be empty


def setting(default: Any, section: str, text: str, **limits: Any) -> Any:
    """A dataclass field with its help text and limits. Secrets are left out of `repr`, and so out of logs."""
    about = SettingInfo(section, text, **limits)
    in_repr = about.kind != "secret"
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"about": about}, repr=in_repr)
    return field(default=default, metadata={"about": about}, repr=in_repr)


def log_format() -> Any:
    """The setting of servers and agents."""
    text = "How log lines on standard error are written: text, or json with one object per line. Times are UTC."
    return setting("text", MISC, text, kind="log-format")


def log_level() -> Any:
    """The setting of servers and agents."""
    text = "Lowest level of the lines that are logged: debug, info, warning or error."
    return setting("info", MISC, text, kind="log-level")


CLIENT_API = "Client API"
LINK = "The agents' link"
STORE = "Store"
AUCTION = "Auctions"
SCORE = "Score"
FLINTLOCKD = "flintlockd on this host"
MACHINE = "Capacity of this host"
MISC = "Other"

# Repeatable settings, and the option that adds one value.
SINGULAR = {"labels": "label", "servers": "server", "quotas": "quota", "zone_endpoints": "endpoint"}


def flag(name: str) -> str:
    """A setting's option name; in the singular for a repeatable one."""
    return "--" + SINGULAR.get(name, name).replace("_", "-")


def split_endpoint(text: str) -> tuple[str, int]:
    """Parse "host:port" or "[v6]:port" into (host, port). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(text)
    return host.strip("[]"), int(port)


def split_endpoints(text: str) -> list[str]:
    """The endpoints of a list that is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


def split_zone(text: str) -> tuple[str, str]:
    """Parse "zone=a,listen=HOST:PORT" into ("a", "HOST:PORT"). Raises ValueError."""
    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if set(pairs) != {"zone", "listen"} or not pairs["zone"]:
        raise ValueError(text)
    split_endpoint(pairs["listen"])
    return pairs["zone"], pairs["listen"]


def check_fields(config: DataclassInstance) -> None:
    """Raise ConfigError for the first setting whose value is invalid."""
    for item in fields(config):
        about: SettingInfo = item.metadata["about"]
        value = getattr(config, item.name)
        if isinstance(value, float) and not isfinite(value):  # TOML has nan and inf, and float() reads them
            raise ConfigError(f"{flag(item.name)} is {value}; give a number")
        if about.low is not None and value < about.low:
            raise ConfigError(f"{flag(item.name)} is {value}; the minimum is {about.low:g}")
        if about.high is not None and value > about.high:
            raise ConfigError(f"{flag(item.name)} is {value}; the maximum is {about.high:g}")
        _check_kind(flag(item.name), about.kind, value)


def secret_files(config: DataclassInstance) -> list[Path]:
    """The files with secrets and private keys that the settings name."""
    found = []
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, FileText):
            found.append(Path(value.path))
        elif value and item.metadata["about"].kind == "file" and item.name.endswith("_key"):
            found.append(Path(value))
    return found


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
            raise ConfigError(f"{name} is {value!r}, which is not a file; check the path")
        case "folder" if not Path(value).is_dir():
            raise ConfigError(f"{name} is {value!r}, which is not a folder; create it or give another")
        case _ if kind in CHOICES and value not in CHOICES[kind]:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(CHOICES[kind])}")
        case "policy" | "policy?" if value not in POLICIES:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(POLICIES)}")
        case "store" if not value.startswith(STORE_SCHEMES):
            raise ConfigError(f"{name} is {value!r}; write sqlite:///PATH or etcd://HOST:PORT,HOST:PORT")


def check_endpoint(name: str, value: str) -> None:
    """Raise ConfigError with the setting's name unless the value is HOST:PORT."""
    _check_form(name, value, *ENDPOINT)


def _check_form(name: str, value: Any, read: Callable[[str], Any], form: str) -> None:
    """Raise ConfigError unless `read` accepts each text of the setting."""
    if isinstance(value, Mapping):
        texts = [(f"{name} of {key}", text) for key, text in value.items()]
    else:
        texts = [(name, text) for text in ((value,) if isinstance(value, str) else value)]
    for label, text in texts:
        try:
            read(text)
        except ValueError:
            raise ConfigError(f"{label} is {text!r}; write {form}") from None


def check_pair(cert: str, key: str, cert_name: str, key_name: str) -> None:
    """Raise ConfigError if only one of two settings is given."""
    if bool(cert) != bool(key):
        given, missing = (cert_name, key_name) if cert else (key_name, cert_name)
        raise ConfigError(f"--{given} is set and --{missing} is not; give both or neither")


def check_listener_tls(insecure: bool, cert: str, key: str, flag_name: str, cert_name: str, key_name: str) -> None:
    """Raise ConfigError unless a listener has both TLS files, or TLS is switched off explicitly."""
    check_pair(cert, key, cert_name, key_name)
    if insecure and cert:
        raise ConfigError(f"--{flag_name} and --{cert_name} contradict each other; drop one of them")
    if not insecure and not cert:
        raise ConfigError(f"give --{cert_name} and --{key_name}, or --{flag_name} to serve without TLS")
