"""Commands that give up microVMs ask first; scripts give --yes."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.commands import confirm


def test_without_a_terminal_nothing_happens_unless_yes_is_given() -> None:
    """Broken on purpose (no terminal counts as yes): a script that meant another host gives up microVMs."""
    with pytest.raises(click.UsageError, match="Give --yes: there is no terminal"):
        confirm.confirm("Give up 3 microVMs?", yes=False)
    confirm.confirm("Give up 3 microVMs?", yes=True)


@pytest.mark.parametrize(("answer", "exit_code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_on_a_terminal_the_answer_decides(monkeypatch: pytest.MonkeyPatch, answer: str, exit_code: int) -> None:
    monkeypatch.setattr(confirm, "isatty", lambda: True)

    @click.command()
    def command() -> None:
        confirm.confirm("Give up 3 microVMs?", yes=False)

    assert CliRunner().invoke(command, input=answer).exit_code == exit_code


@pytest.mark.parametrize("command", [("host", "fence"), ("host", "drain"), ("rebalance",)])
def test_each_of_them_has_the_option(command: tuple[str, ...]) -> None:
    assert "--yes" in CliRunner().invoke(main, [*command, "--help"]).stdout
