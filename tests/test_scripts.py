"""The checks of `make check` find what they are for. Each is given a file that is wrong on purpose."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import pytest

from scripts import check_advisories, check_private, check_size, check_words

ROOT = Path(__file__).parent.parent

# check_private


@pytest.mark.parametrize(
    ("use", "column"),
    [
        ("link._accept(request)", 6),
        ("self.link._accept(request)", 11),
        ("from billet.link.server import _accept", 32),
        ("monkeypatch.setattr(link, '_accept', None)", 27),
        ("monkeypatch.setattr('billet.link.server._accept', None)", 21),
        ("patch.object(LinkServer, '_accept', None)", 26),
    ],
)
def test_a_private_name_of_another_file_is_found_with_its_place(use: str, column: int) -> None:
    found = check_private.uses("a.py", f"# line 1\n{use}\n")
    assert [str(one) for one in found] == [f"a.py:2:{column}: _accept"]


def test_what_a_file_defines_is_its_own() -> None:
    source = """
        class Link:
            _kind: str
            def __init__(self):
                self._hosts = {}
            def _accept(self): ...
            def __eq__(self, other): return other._hosts == self._hosts and other._kind == self._kind
        def listen(link): return link._accept(), link.__class__, row._replace(uid="")
    """
    assert check_private.uses("a.py", dedent(source)) == []


def test_an_attribute_that_a_base_class_keeps_to_itself_is_not_the_subclass_es() -> None:
    source = """
        class SimDialler(AgentDialler):
            def name(self): return self._agent.host.id
    """
    assert [found.name for found in check_private.uses("a.py", dedent(source))] == ["_agent"]


# check_size


def test_a_long_file_a_long_function_and_a_long_median_are_found() -> None:
    long_function = "def long():\n" + "    x = 1\n" * 46
    assert check_size.check([("a.py", long_function)]) == [
        "a.py:1: long has 47 lines, at most 46: take a step out of it",
        "half of the 1 functions have 47 lines or more, at most 6",
    ]
    assert check_size.check([("a.py", "x = 1\n" * 351)]) == [
        "a.py:1: 351 lines, at most 350: move a part of it to a file of its own"
    ]


def test_files_and_functions_at_the_limit_are_fine() -> None:
    short, longest = "def short(): ...\n", "def longest():\n" + "    x = 1\n" * 45
    source = short + short + longest
    assert check_size.check([("a.py", source + "x = 1\n" * (350 - 48))]) == []


# check_words


def old_words(source: str, path: str = "src/billet/a.py") -> list[tuple[int, str]]:
    return [(found.line, found.word) for found in check_words.check_python(path, dedent(source))]


def test_old_identifiers_are_found_whole_or_by_their_parts_and_ordinary_ones_are_not() -> None:
    source = """\
        wish_weight = Office()
        BootRoom, _front = 1, 2
        front_door = frontier = turning = kind = history = finish = 3
    """
    assert old_words(source) == [(1, "wish_weight"), (1, "Office"), (2, "BootRoom"), (2, "_front")]


def test_old_words_are_found_in_comments_strings_and_over_the_end_of_a_line() -> None:
    source = '''\
        def finish():  # the reign is over
            """What it foretold: microVMs to make
            again."""
            return "mend it", '--settle-after-s'
    '''
    found = sorted(old_words(source))
    assert found == [(1, "reign"), (2, "foretold"), (2, "make again"), (4, "mend"), (4, "settle")]


def test_a_word_with_an_ordinary_meaning_is_found_in_its_old_sense_only() -> None:
    page = "Its *front* passes calls on, in front of the leader.\n\nThe audit log is no audit. A front-proxy CA.\n"
    found = [(found.line, found.word) for found in check_words.check_markdown("docs/a.md", page)]
    assert found == [(1, "Its *front"), (3, "audit")]


def test_a_renaming_may_be_told_where_history_is_told_and_in_the_table_of_names() -> None:
    told = "* The office is renamed: office → leadership.\n* The office opens.\n"
    assert [found.line for found in check_words.check_markdown("CHANGELOG.md", told)] == [2]
    assert [found.line for found in check_words.check_markdown("docs/a.md", told)] == [1, 1, 2]
    table = "## Old and new names\n\n| `Office` | `Leadership` |\n\n## Style\n\n| the office |\n"
    assert [found.line for found in check_words.check_markdown("CONTRIBUTING.md", table)] == [7]


def test_help_texts_are_looked_at_with_all_commands_below() -> None:
    @click.group(help="Everything.")
    def fleet() -> None: ...

    @fleet.command(help="Have microVMs made again.")
    @click.option("--wishes")
    def move() -> None: ...

    found = [(found.path, found.word) for found in check_words.check_help(fleet, "fleet")]
    assert ("fleet --help", "made again") in found
    assert {word for path, word in found if path == "fleet move --help"} == {"made again", "wishes"}


def test_a_release_lists_every_locked_package_with_its_hashes(tmp_path: Path) -> None:
    """Broken on purpose (--no-hashes; the development group in one of them): the lists differ, or have no hashes."""
    environment = {**os.environ, "DIST": str(tmp_path)}
    subprocess.run(["sh", str(ROOT / "scripts/release"), "--lists"], check=True, env=environment)
    listed = (tmp_path / "requirements.txt").read_text()
    packages = re.findall(r"^([\w.-]+)==(\S+)(.*?)(?=^[\w.-]+==|\Z)", listed, re.MULTILINE | re.DOTALL)
    assert all("--hash=sha256:" in rest for _, _, rest in packages)
    found = json.loads((tmp_path / "sbom.cdx.json").read_text())["components"]
    assert {(one["name"], one["version"]) for one in found} == {(name, version) for name, version, _ in packages}
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    assert {re.split(r"[<>=]", name)[0] for name in wanted} <= {name for name, _, _ in packages}


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        ([], 0, "no index can be reached"),
        ([{"name": "a", "skip_reason": "there is no such package"}], 0, "no index can be reached"),
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "?"}], 0, "1 of 2 packages"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: X-1; fixed in: 2",
        ),
    ],
)
def test_an_advisory_fails_the_check_and_no_index_does_not(
    found: list[dict[str, Any]], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit itself says "no known vulnerabilities" where it has skipped every package."""
    assert check_advisories.judge(found) == code
    assert says in capsys.readouterr().out
