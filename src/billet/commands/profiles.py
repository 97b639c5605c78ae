"""Client profiles: named sets of --server and credentials in a file of the user, chosen with --profile."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from billet.core.errors import ConfigError

KEYS = ("server", "token-file", "tls-ca", "tls-cert", "tls-key")
FILES = KEYS[1:]  # relative paths start at the folder of the profiles

Function = TypeVar("Function", bound=Callable[..., Any])


def profiles_path() -> Path:
    """The file of the profiles."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "billet" / "config.toml"


def profile_option(function: Function) -> Function:
    """Decorator: --profile, whose settings count where neither an option nor an environment variable is given."""
    return click.option(
        "--profile", envvar="BILLET_PROFILE", show_envvar=True, metavar="NAME", is_eager=True, expose_value=False,
        callback=_use, shell_complete=complete_profile,
        help="Use this profile of ~/.config/billet/config.toml. Default: the one that the file names.",
    )(function)  # fmt: skip


def complete_profile(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [name for name in profile_names() if name.startswith(incomplete)]


def _use(ctx: click.Context, param: click.Parameter, name: str | None) -> None:
    settings = read_profile(profiles_path(), name or "")  # click itself drops errors while the shell completes
    ctx.default_map = {**(ctx.default_map or {}), **settings}


def profile_names() -> list[str]:
    """The profiles of the file; none if it cannot be read."""
    try:
        return sorted(tomllib.loads(profiles_path().read_text()).get("profiles", {}))
    except (OSError, ValueError, TypeError):
        return []


def read_profile(path: Path, name: str) -> dict[str, str]:
    """The settings of a profile, by the name of the option's variable. `name` "": the file's own choice, or none.

    Raises ConfigError.
    """
    try:
        found = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if name:
            raise ConfigError(f"there is no profile {name!r}: {path} does not exist") from None
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    unknown = sorted(set(found) - {"profile", "profiles"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; it may have profile = NAME and [profiles.NAME]")
    name = name or str(found.get("profile", ""))
    profiles = found.get("profiles", {})
    if not name:
        return {}
    if name not in profiles:
        raise ConfigError(f"{path} has no profile {name!r}; it has {', '.join(sorted(profiles)) or 'none'}")
    return _settings(path, name, profiles[name])


def _settings(path: Path, name: str, profile: Mapping[str, Any]) -> dict[str, str]:
    settings = {}
    for key, value in profile.items():
        if key not in KEYS:
            raise ConfigError(f"{path}: unknown key {key!r} in profile {name!r}; it may have {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key} of profile {name!r} is not a text; write it in quotes")
        settings[key.replace("-", "_")] = str(path.parent / Path(value).expanduser()) if key in FILES else value
    return settings
