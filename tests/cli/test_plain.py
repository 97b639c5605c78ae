"""What a client or a host may choose never reaches a terminal raw."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from billet.cli import CommandError
from billet.core.errors import InvalidRequest
from billet.grpc.metadata import decode_text, encode_text
from billet.link import bounds
from billet.show.marks import table
from billet.show.plain import PlainConsole, plain
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.poison import refuse_oversized, refuse_poison

MARKUP = "z[/z] [red]a[/oops] :smile:"
NASTY = "a\x1b[31mb\u202ec"


def shown(*things: object) -> str:
    out = io.StringIO()
    for thing in things:
        PlainConsole(file=out, width=200).print(thing)
    return out.getvalue()


def test_a_name_with_markup_is_shown_as_it_is() -> None:
    """Before the fix: MarkupError for everybody who lists."""
    rows = table("NAME", "TEXT", title="t")
    rows.add_row(f"ns/{MARKUP}", Text(MARKUP))
    assert shown(rows).count(MARKUP) == 2
    assert shown(MARKUP) == MARKUP + "\n"


def test_control_characters_are_shown_as_question_marks() -> None:
    rows = table("NAME", "TEXT")
    rows.add_row(NASTY, Text(NASTY, style="bold"))
    for thing in (rows, NASTY, Text(NASTY)):
        assert "\x1b" not in shown(thing)
        assert "a?[31mb?c" in shown(thing)


def test_a_line_break_in_a_name_makes_no_row() -> None:
    rows = table("NAME")
    rows.add_row("a\n01ABC  forged")
    rows.add_row(Text("b\n01ABC  forged"))
    lines = [line.strip() for line in shown(rows).splitlines() if line.strip()]
    assert lines[-2:] == ["a?01ABC  forged", "b?01ABC  forged"]
    assert plain("one\ntwo") == "one?two"
    assert plain("one\ntwo\x1b", lines=True) == "one\ntwo?"


def test_an_error_is_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    CommandError(f"first {NASTY}\nsecond {NASTY}").show()
    assert capsys.readouterr().err.replace("\x1b[31m", "").count("a?[31mb?c") == 2


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\0b", "a\u202eb", "a\tb"])
def test_names_and_labels_that_cannot_be_printed_are_refused(name: str) -> None:
    """flintlockd refuses such names itself, but only after they were recorded."""
    for vm in (types.MicroVMSpec(id=name), types.MicroVMSpec(id="a", namespace=name)):
        with pytest.raises(InvalidRequest, match="cannot be printed"):
            refuse_poison(vm)
    with pytest.raises(InvalidRequest, match="cannot be printed"):
        refuse_oversized(types.MicroVMSpec(), {"billet.io/apart": name})


def test_errors_of_hosts_are_cleaned_and_cut() -> None:
    assert bounds.error("2 errors:\n\t* one\x1b[2J") == "2 errors:\n\t* one?[2J"
    assert len(bounds.error("x" * 100_000)) == bounds.ERROR_CHARS


@pytest.mark.parametrize("text", ["x" * 100_000, "\u00e9" * 9000, "\U0001f600" * 5000, "%" * 5000])
def test_a_status_text_is_cut_to_what_trailers_carry(text: str) -> None:
    """Before the fix: by characters, of which one may take twelve bytes."""
    sent = encode_text(text)
    assert 4000 < len(sent) <= 4096
    assert text.startswith(decode_text(sent))
