"""`billet config`: check the settings of a server or an agent, or show each value and where it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from billet.commands.options import (
    SectionedCommand,
    build,
    config_options,
    console,
    output_option,
    refuse_unknown_variables,
    variables_of,
)
from billet.config import ServerConfig
from billet.config_agent import AgentConfig
from billet.settings import flag

KINDS: dict[str, type[Any]] = {"server": ServerConfig, "agent": AgentConfig}
ELSEWHERE = {"BILLET_GRPC_ENGINE"}  # variables that no option stands for


@click.group()
def config() -> None:
    """Check the settings of a server or an agent, or show each value and where it came from.

    \b
    billet config check server --config billet.toml
    billet config show agent --config billet.toml

    Both take the options and environment variables of `billet server` and `billet agent`, and start nothing.
    """


@config.group()
def check() -> None:
    """Say whether a server or an agent would start with these settings.

    Unknown keys in the file are errors, and so are unknown environment variables that begin with BILLET_.
    """


@config.group()
def show() -> None:
    """Show each setting, its value, and where it came from. Secrets are not shown."""


def _checking(kind: str) -> Callable[..., None]:
    def run(**values: Any) -> None:
        ctx = click.get_current_context()
        refuse_unknown_variables("BILLET_", set(_all_variables(ctx.find_root())) | ELSEWHERE)
        made = build(KINDS[kind], values)
        changed = sum(source != "default" for _, _, source in _rows(ctx, made))
        click.echo(f"The settings of this {kind} are valid; {changed} are not the default.")

    run.__doc__ = f"Say whether `billet {kind}` would start with these settings."
    return run


def _showing(kind: str) -> Callable[..., None]:
    def run(output: str, **values: Any) -> None:
        rows = list(_rows(click.get_current_context(), build(KINDS[kind], values)))
        if output == "json":
            click.echo(
                json.dumps([dict(zip(("setting", "value", "from"), row, strict=True)) for row in rows], indent=2)
            )
            return
        from billet.show.marks import table

        result = table("~SETTING", "~VALUE", "~FROM")
        for name, value, source in rows:
            result.add_row(name, value, source)
        console().print(result)

    run.__doc__ = f"Show each setting of `billet {kind}`, its value, and where it came from. Secrets are not shown."
    return run


for _kind, _config in KINDS.items():
    _settings = {"auto_envvar_prefix": f"BILLET_{_kind.upper()}"}
    for _group, _run in ((check, _checking(_kind)), (show, output_option(_showing(_kind)))):
        _command = click.command(_kind, cls=SectionedCommand, context_settings=_settings)
        _group.add_command(_command(config_options(_config)(_run)))


def _rows(ctx: click.Context, made: Any) -> Iterator[tuple[str, str, str]]:
    """(option, value, where it came from) of each setting."""
    for item in fields(made):
        names = [item.name, f"{item.name}_file"] if item.metadata["about"].kind == "secret" else [item.name]
        sources = [(name, ctx.get_parameter_source(name)) for name in names]
        name, source = next((one for one in sources if one[1] is not ParameterSource.DEFAULT), sources[0])
        value = getattr(made, item.name)
        shown = ("(set)" if value else "") if item.metadata["about"].kind == "secret" else _text(value)
        yield flag(item.name), shown, _source(ctx, name, source)


def _source(ctx: click.Context, name: str, source: ParameterSource | None) -> str:
    match source:
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return "environment"
        case ParameterSource.DEFAULT_MAP:
            return f"file {ctx.meta['billet.config']}"
    return "default"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _all_variables(root: click.Context, of: click.Context | None = None) -> Iterator[str]:
    """The environment variables of every command."""
    ctx = of or root
    yield from variables_of(ctx)
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            if child := ctx.command.get_command(ctx, name):
                own = {key: value for key, value in child.context_settings.items() if key == "auto_envvar_prefix"}
                yield from _all_variables(root, click.Context(child, info_name=name, parent=ctx, **own))
