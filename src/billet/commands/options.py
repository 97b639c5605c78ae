"""Command-line options generated from the settings, and the options that all client commands share."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click
from rich.console import Console

from billet.commands.profiles import profile_option
from billet.config import STORE_FIELDS, ServerConfig
from billet.core.errors import ConfigError
from billet.core.policies import POLICIES
from billet.settings import CHOICES, SINGULAR, SettingInfo, check_endpoint, flag, split_endpoints
from billet.show.plain import PlainConsole, plain
from billet.wire.secret import FileText, read_secret

if TYPE_CHECKING:
    from billet.client import Address

KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")

Function = TypeVar("Function", bound=Callable[..., Any])
Config = TypeVar("Config")


def _from_file(item: Field[Any]) -> dict[str, Any]:
    """The keyword arguments of click.option for the --...-file of a secret."""
    text = f"File that contains the value of {flag(item.name)}, so that `ps` does not show it."
    return {"default": "", "metavar": "FILE", "help": text}


class Pairs(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split KEY=VALUE."""
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, text


MAXIMUM = 1e9  # for any number: as seconds 30 years; much more makes gRPC's deadlines wrap around


class FiniteFloat(click.FloatRange):
    """A float within limits. Unlike click's own range it rejects nan and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check the number."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        if number > MAXIMUM:
            self.fail(f"{value!r} is more than {MAXIMUM:.0f}", param, ctx)
        return number


class SectionedCommand(click.Command):
    """A command whose --help groups the options by the sections of their settings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section, in the order of the config; section Other comes last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            line = param.get_help_record(ctx)
            if line:
                sections.setdefault(getattr(param, "section", "Other"), []).append(line)
        last = sections.pop("Other", [])
        for title, lines in [*sections.items(), ("Other", last)]:
            with formatter.section(title):
                formatter.write_dl(lines, col_max=28)


class SettingOption(click.Option):
    """An option that carries its setting's section."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def config_options(config: type[Any]) -> Callable[[Function], Function]:
    """Decorator: one option per field of the config, a --...-file per secret, and --config."""

    def decorate(function: Function) -> Function:
        for option in reversed(list(_options(config))):
            function = option(function)
        return click.option(
            "--config", type=click.Path(dir_okay=False), is_eager=True, expose_value=False, callback=_read_config,
            help="TOML file with these settings in a table [server] or [agent], by the names of the options; what is"
            " repeatable is a list, or a table of KEY = VALUE. Options and environment variables override it.",
        )(function)  # fmt: skip

    return decorate


def store_options(function: Function) -> Function:
    """Decorator: the store options of `billet server`, with the same names and environment variables."""
    for item in reversed([item for item in fields(ServerConfig) if item.name in STORE_FIELDS]):
        about: SettingInfo = item.metadata["about"]
        options = [(_names(item), {"help": about.text, **_kind(item, {item.name: str})})]
        if about.kind == "secret":
            options.append((_file_names(item), _from_file(item)))
        for (name, variable), kind in reversed(options):
            env = f"BILLET_SERVER_{variable.upper()}"
            function = click.option(name, variable, envvar=env, show_envvar=True, **kind)(function)
    return function


def _options(config: type[Any]) -> Iterator[Callable[[Function], Function]]:
    hints = get_type_hints(config)
    for item in fields(config):
        about: SettingInfo = item.metadata["about"]
        kind = _kind(item, hints)
        if item.name in SINGULAR:  # --quota also reads BILLET_SERVER_QUOTA, beside click's ..._QUOTAS
            kind["envvar"] = f"BILLET_{config.__name__.removesuffix('Config').upper()}_{SINGULAR[item.name].upper()}"
        yield click.option(*_names(item), cls=SettingOption, section=about.section, help=about.text, **kind)
        if about.kind == "secret":
            yield click.option(*_file_names(item), cls=SettingOption, section=about.section, **_from_file(item))


def _names(item: Field[Any]) -> tuple[str, str]:
    return flag(item.name), item.name


def _file_names(item: Field[Any]) -> tuple[str, str]:
    return f"{flag(item.name)}-file", f"{item.name}_file"


def _kind(item: Field[Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of click.option for a field's type and default."""
    about: SettingInfo = item.metadata["about"]
    match hints[item.name]:
        case kind if kind is bool:
            return {"is_flag": True, "default": item.default}
        case kind if kind in (int, float):
            return {"type": kind, "default": item.default, "show_default": True}
        case kind if kind is str:
            metavar = {
                "endpoint": "HOST:PORT",
                "endpoint?": "HOST:PORT",
                "file": "FILE",
                "folder": "DIR",
                "store": "URL",
                "policy": "|".join(POLICIES),
                "policy?": "|".join(POLICIES),
                **{name: "|".join(choices) for name, choices in CHOICES.items()},
            }
            visible = bool(item.default)
            return {"default": item.default, "show_default": visible, "metavar": metavar.get(about.kind, "TEXT")}
        case kind if kind == tuple[str, ...]:
            metavar = {"zones": "zone=NAME,listen=HOST:PORT"}
            visible = bool(item.default)
            form = metavar.get(about.kind, "HOST:PORT")
            return {"multiple": True, "default": item.default, "show_default": visible, "metavar": form}
        case _:
            form = "NAMESPACE=LIMITS" if about.kind == "quotas" else "KEY=VALUE"
            return {"multiple": True, "type": Pairs(), "metavar": form}


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if ctx.auto_envvar_prefix and not ctx.resilient_parsing:
        refuse_unknown_variables(f"{ctx.auto_envvar_prefix}_", variables_of(ctx))
    if not path:
        return
    name = ctx.info_name or ""
    try:
        tables = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not TOML: {error}") from None
    unknown = set(tables) - {"server", "agent"}
    if unknown:
        raise ConfigError(f"{path}: unknown table or key {sorted(unknown)[0]!r}; put settings under [{name}]")
    ctx.meta["billet.config"] = path
    ctx.default_map = {}
    for key, value in tables.get(name, {}).items():
        setting = _setting_of(ctx, path, key)
        if setting in ctx.default_map:
            raise ConfigError(f"{path}: {flag(setting)} is given twice in [{name}]; give it once")
        ctx.default_map[setting] = _texts(value)


def _setting_of(ctx: click.Context, path: str, key: str) -> str:
    """The name of the setting that a key of the file means: it is the option's, or the same with underscores."""
    name = key.replace("-", "_")
    name = {one.replace("-", "_"): many for many, one in SINGULAR.items()}.get(name, name)
    if name not in {param.name for param in ctx.command.params if getattr(param, "section", None)}:
        raise ConfigError(f"{path}: unknown setting {key!r} in [{ctx.info_name}]; see billet {ctx.info_name} --help")
    return name


def _texts(value: Any) -> Any:
    return [f"{key}={text}" for key, text in value.items()] if isinstance(value, dict) else value


def variables_of(ctx: click.Context) -> set[str]:
    """The environment variables that a command reads."""
    names: set[str] = set()
    for param in ctx.command.params:
        own = param.envvar or ()
        names.update([own] if isinstance(own, str) else own)
        if param.name and ctx.auto_envvar_prefix:
            names.add(f"{ctx.auto_envvar_prefix}_{param.name.upper()}")
    return names


def refuse_unknown_variables(prefix: str, known: Collection[str]) -> None:
    """Raise ConfigError for a variable of the environment that looks like a setting and is none.

    Kubernetes adds variables of its own for a Service, and these are left alone.
    """
    for name in sorted(os.environ):
        if name.startswith(prefix) and name not in known and not KUBERNETES.search(name):
            close = get_close_matches(name, known, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"the environment variable {name} is no setting of Billet{meant}")


def build(config: Callable[..., Config], values: dict[str, Any]) -> Config:
    """Construct the config from click's values, with secrets read from their files. Raises ConfigError."""
    open_secrets(values)
    for name in {"labels", "quotas"} & values.keys():
        values[name] = _once_each(flag(name), values[name])
    if "servers" in values:
        values["servers"] = tuple(part for text in values["servers"] for part in text.split(",") if part)
    return config(**values)


def _once_each(name: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    by_key: dict[str, str] = {}
    for key, text in pairs:
        if key in by_key:
            raise ConfigError(f"{name} {key} is given twice, as {by_key[key]!r} and {text!r}; give one")
        by_key[key] = text
    return by_key


def open_secrets(values: dict[str, Any]) -> None:
    """Replace each `..._token_file` and `..._password_file` by the content of that file."""
    for name in [name for name in values if name.endswith(("_token_file", "_password_file"))]:
        values[name.removesuffix("_file")] = secret(name, values.pop(name), values[name.removesuffix("_file")])


def secret(name: str, path: str, given: str) -> str:
    """The secret: `given`, or the content of the file at `path` without its final newline. Raises ConfigError."""
    if not path:
        return given
    if given:
        raise ConfigError(f"{flag(name)} and {flag(name.removesuffix('_file'))} are both set; drop one of them")
    try:
        return FileText(read_secret(path), path)
    except ConfigError as error:
        raise ConfigError(f"{flag(name)} is {error.text}") from None


def console() -> Console:
    """The console for tables. Into a pipe it is 250 columns wide, so that `grep` sees whole lines."""
    terminal = PlainConsole()
    return terminal if terminal.is_terminal else PlainConsole(width=250)


def say(sentence: str, err: bool = False) -> None:
    """Print one line, in which names may have been chosen by clients."""
    click.echo(plain(sentence), err=err)


def print_sentence(screen: Console, line: str) -> None:
    """Print a sentence, wrapped between words on a terminal and on one line into a pipe."""
    screen.print(line, markup=False, soft_wrap=not screen.is_terminal)


output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="Output format.",
)  # fmt: skip


CLIENT_OPTIONS = (
    (
        "server",
        "localhost:9090",
        "HOST:PORT",
        "gRPC endpoint of any server. Of several, separated by commas, the first that answers is used.",
    ),
    ("token", "", "TEXT", "Token of a credential (billet token), or the server's --basic-auth-token. Empty = none."),
    ("token-file", "", "FILE", "File that contains the token."),
    ("tls-ca", "", "FILE", "PEM file: CA of the server's certificate. Empty = no TLS."),
    ("tls-cert", "", "FILE", "PEM file: client certificate, if the server requires one."),
    ("tls-key", "", "FILE", "PEM file: private key of --tls-cert."),
)


def address_of(values: Mapping[str, Any]) -> Address:
    """The address that the values of CLIENT_OPTIONS mean. Raises ConfigError."""
    from billet.client import Address  # late: --help needs none of what it imports

    for endpoint in split_endpoints(values["server"]):
        check_endpoint("--server", endpoint)
    return Address(
        endpoint=values["server"],
        token=secret("token_file", values["token_file"], values["token"]),
        tls_ca=values["tls_ca"],
        tls_cert=values["tls_cert"],
        tls_key=values["tls_key"],
    )


def client_options(function: Function) -> Function:
    """Decorator: the options for the server's address and credentials, passed to the command as `address`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **values: Any) -> Any:
        own = {name: values.pop(name) for name in [option.replace("-", "_") for option, *_ in CLIENT_OPTIONS]}
        return function(*args, address=address_of(own), **values)

    decorated: Any = wrapped
    for name, default, metavar, text in reversed(CLIENT_OPTIONS):
        env = f"BILLET_{name.upper().replace('-', '_')}"
        names = [f"--{name}"] if name != "server" else ["-s", "--server"]
        decorated = click.option(
            *names,
            default=default,
            metavar=metavar,
            help=text,
            envvar=env,
            show_envvar=True,
            show_default=bool(default),
        )(decorated)
    result: Function = profile_option(decorated)
    return result
