"""Ask before microVMs are given up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from billet.show.plain import plain

Function = TypeVar("Function", bound=Callable[..., Any])


def yes_option(function: Function) -> Function:
    """The option --yes of a command that gives up microVMs."""
    return click.option("--yes", is_flag=True, help="Do not ask before microVMs are given up. Required in scripts.")(
        function
    )


def confirm(question: str, yes: bool) -> None:
    """Ask a question on the terminal. Raises click.Abort on "no", UsageError without a terminal and without --yes."""
    if yes:
        return
    question = plain(question)  # it may have names of microVMs in it
    if not isatty():
        raise click.UsageError(f"{question} Give --yes: there is no terminal to ask on.")
    click.confirm(question, abort=True, err=True)


def isatty() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()
