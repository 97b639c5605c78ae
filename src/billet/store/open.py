"""Makes the store that a URL names."""

from __future__ import annotations

from pathlib import Path

from billet.core.errors import ConfigError
from billet.settings import split_endpoint
from billet.store.engine import Engine
from billet.store.sqlite import SqliteStore

FORMS = "sqlite:///RELATIVE/PATH, sqlite:////ABSOLUTE/PATH, or etcd://HOST:PORT,HOST:PORT (etcds:// with TLS)"


def open_store(
    url: str,
    folder: str = ".",
    tls_ca: str = "",
    tls_cert: str = "",
    tls_key: str = "",
    user: str = "",
    password: str = "",
    create: bool = True,
) -> Engine:
    """The store at this URL, not yet opened. Relative SQLite paths start at `folder`. Raises ConfigError.

    TLS files (PEM), user and password are for etcd. They are not part of the URL because it is logged and shown.
    `create`: make a missing SQLite file.
    """
    scheme, _, rest = url.partition("://")
    match scheme:
        case "sqlite" if rest.startswith("/") and not rest.endswith("/"):
            return SqliteStore(Path(folder) / rest.removeprefix("/"), create)
        case "etcd" | "etcds" if rest:
            from billet.store.etcd import EtcdStore  # only when needed: it loads gRPC and etcd's messages

            endpoints = [part.strip() for part in rest.split(",") if part.strip()]
            if not endpoints or not all(map(_is_endpoint, endpoints)):
                raise _wrong(url)
            web = "https://" if scheme == "etcds" or tls_ca or tls_cert else "http://"
            urls = [endpoint if endpoint.startswith("unix:") else web + endpoint for endpoint in endpoints]
            return EtcdStore(urls, tls_ca, tls_cert, tls_key, user=user, password=password)
        case _:
            raise _wrong(url)


def _is_endpoint(text: str) -> bool:
    if text.startswith("unix:"):
        return True
    try:
        host, port = split_endpoint(text)
    except ValueError:
        return False
    return bool(host) and port > 0 and not set(host) & set("@/?# ")


def _wrong(url: str) -> ConfigError:
    shown = repr(url) if "@" not in url else "a URL with a user in it"  # and perhaps with a password
    return ConfigError(f"--store is {shown}; write {FORMS}")
