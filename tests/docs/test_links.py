"""The documentation names only what is there: files, headings, functions, commands and options."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click
import pytest

from billet.cli import main
from tests.docs.pages import PAGES, ROOT, prose

FOLDERS = ("src", "tests", "docs", "scripts", "benchmarks", "chaos", ".ci")
INSIDE = sorted(path.name for path in (ROOT / "src" / "billet").iterdir() if path.is_dir() and path.name[0] != "_")
# Options in the text that are not Billet's: flintlockd's, etcd's, and those of `make bench` and `make chaos`.
FOREIGN = {
    "--default-provider", "--quota-backend-bytes", "--auto-compaction-retention",
    "--out", "--quick", "--stores", "--fake-grpc", "--placed", "--times", "--report", "--results", "--randomly-seed",
    "--agents-per-process", "--busy-loops", "--silent-hosts",
}  # fmt: skip
GENERATED = {"benchmarks/results/latest.json"}  # there after `make bench`
# Options of earlier versions, which the changelog may name.
FORMER = {"--settle-after-s", "--wish-weight"}

every_page = pytest.mark.parametrize("page", PAGES, ids=str)


def inline_code(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_a_relative_link_leads_to_a_file_and_to_a_heading(page):
    for target in re.findall(r"\]\(\s*([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path.resolve()), f"{page}: {target}"


@every_page
def test_no_page_has_the_marks_of_a_merge(page):
    assert not re.search(r"^(?:<{7}|>{7})(?: |$)", (ROOT / page).read_text(), flags=re.MULTILINE)


def test_a_page_that_the_code_names_is_there():
    sources = (ROOT / "src").rglob("*.py")
    named = {page for source in sources for page in re.findall(r"docs/(?:adr/)?[\w-]+\.md", source.read_text())}
    assert {page for page in named if not (ROOT / page).exists()} == set()


def test_every_page_can_be_found_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in re.findall(r"\]\(\s*([^)\s#]+)", page.read_text()):
            path = (page.parent / target).resolve()
            if path.is_dir():
                todo += path.glob("*.md")
            elif path.exists():
                todo.append(path)
    assert {ROOT / page for page in PAGES} <= seen


def test_a_file_that_is_named_is_there():
    """`src/billet/core/x.py`, or `core/x.py` for short; with a name behind it, the file defines or has that name."""
    named = re.compile(rf"^(?:{'|'.join((*FOLDERS, *INSIDE))})/[\w./-]*(?::+\w+)?")
    missing = []
    for page in PAGES:
        for code in inline_code(page):
            match = named.match(code)
            if not match or any(sign in code for sign in "*…") or code in GENERATED:
                continue
            file, _, name = match[0].partition(":")
            places = [root / file for root in (ROOT, ROOT / "src" / "billet") if (root / file).exists()]
            if not places:
                missing.append(f"{page}: {code}")
            elif name.strip(":") not in ("", *re.findall(r"\w+", places[0].read_text() if name else "")):
                missing.append(f"{page}: {code}: no such name")
    assert not missing, "\n".join(missing)


@every_page
def test_a_function_behind_a_link_to_its_file_is_defined_there(page):
    for file, name in re.findall(r"\]\(([^)]+\.py)\) `([\w.]+)`", prose(page)):
        source = ((ROOT / page).parent / file).read_text()
        for part in name.split("."):
            assert re.search(rf"(?:def|class) {part}\b", source), f"{page}: {name} is not in {file}"


@cache
def words_of_the_code() -> frozenset[str]:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.proto")]
    return frozenset(word for source in sources for word in re.findall(r"\w+", source.read_text()))


@every_page
def test_a_class_or_method_in_the_text_is_in_the_code(page):
    named = [code for code in inline_code(page) if re.fullmatch(r"[A-Z]+[a-z]\w*(?:\.\w+)*", code)]
    assert {code for code in named if not set(code.split(".")) <= words_of_the_code()} == set()


def options_of(command: click.Command) -> set[str]:
    return {option for item in command.params for option in (*item.opts, *item.secondary_opts)} | {"--help", "-h"}


def every_command(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    context = click.Context(command)
    children = [command.get_command(context, name) for name in command.list_commands(context)]
    return [command] + [one for child in children if child for one in every_command(child)]


@cache
def every_option() -> frozenset[str]:
    return frozenset(option for command in every_command(main) for option in options_of(command))


@every_page
def test_an_option_in_the_text_exists(page):
    named = {
        option for code in inline_code(page) for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*\b(?!…)", code)
    }
    named = {option for option in named if f"{option}-…" not in prose(page)}
    assert named - every_option() - FOREIGN - (FORMER if page.name == "CHANGELOG.md" else set()) == set()


@every_page
def test_a_command_in_the_text_exists_with_its_options(page):
    for code in inline_code(page):
        words = code.replace(" | ", "|").split()
        if words[0] != "billet" or (page.name == "CHANGELOG.md" and code == "billet audit"):
            continue
        todo: list[tuple[click.Command, list[str]]] = [(main, words[1:])]
        while todo:
            command, rest = todo.pop()
            if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
                for name in rest[0].split("|"):
                    child = command.get_command(click.Context(command), name)
                    assert child, f"{page}: {code}: there is no {name}"
                    todo.append((child, rest[1:]))
                continue
            unknown = {word.split("=")[0] for word in rest if word.startswith("--")} - options_of(command)
            assert not unknown, f"{page}: {code}"
