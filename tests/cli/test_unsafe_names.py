"""Names that clients have given to microVMs do no harm on an operator's terminal."""

from __future__ import annotations

import click
import pytest

from billet import client
from billet.commands import completion, confirm, options

NAMES = ["web-1", "$(touch pwned)", "`id`", "a b", "x\ny", "ns/web:1@h.example"]


class NoClient:
    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> NoClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_shell_completes_no_name_that_it_would_carry_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose (every name is offered): `$(touch pwned)` is among them."""
    monkeypatch.setattr(client, "Client", NoClient)
    monkeypatch.setattr(options, "address_of", lambda params: None)
    complete = completion.live(lambda client, ctx: NAMES)
    command = click.Command("vms")
    assert complete(click.Context(command), click.Argument(["name"]), "") == ["ns/web:1@h.example", "web-1"]


def test_a_question_has_no_escapes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose (the question as it is): ESC is in it."""
    asked: list[str] = []
    monkeypatch.setattr(confirm, "isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", lambda question, **_: asked.append(question))
    confirm.confirm("Delete 1 microVM: web\x1b[2K?", yes=False)
    assert "\x1b" not in asked[0]
    assert "web" in asked[0]
