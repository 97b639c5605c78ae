"""A store by its URL."""

from __future__ import annotations

from pathlib import Path

from billet.adapters.sqlite import SqliteStore
from billet.core.errors import ConfigError
from billet.ports import Store

FORMS = "sqlite:///PATH, or etcd://HOST:PORT,HOST:PORT (etcds:// with TLS)"


def open_store(url: str, folder: str = ".", tls_ca: str = "", tls_cert: str = "", tls_key: str = "") -> Store:
    """The store at this URL, not yet opened. Relative SQLite paths start at `folder`. Raises ConfigError."""
    scheme, separator, rest = url.partition("://")
    match scheme:
        case "sqlite" if separator and rest.startswith("/") and len(rest) > 1:
            return SqliteStore(Path(folder) / rest.removeprefix("/"))
        case "etcd" | "etcds" if rest:
            from billet.adapters.etcd import EtcdStore  # late: an embedded server needs none of it

            endpoints = [part.strip() for part in rest.split(",") if part.strip()]
            secure = scheme == "etcds" or bool(tls_ca or tls_cert)
            prefix = "https://" if secure else "http://"
            urls = [endpoint if endpoint.startswith("unix:") else prefix + endpoint for endpoint in endpoints]
            return EtcdStore(urls, ca=tls_ca, cert=tls_cert, key=tls_key)
        case _:
            raise ConfigError(f"--store is {url!r}; write {FORMS}")
