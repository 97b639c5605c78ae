"""Private names stay in their file: nothing that begins with "_" is used from another file.

`python -m scripts.check_private [FOLDER]...` prints file:line:column and name of each use, and fails if there is one.

Types are not known here, so a name counts as the file's own when the file defines it: as a function, a class, a
variable, an attribute of self, a field, or a member of __slots__. Two classes that have a private name in common can
therefore reach into each other unseen; one that reaches for a name that only the other has cannot.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("src", "tests", "scripts", "benchmarks", "chaos", "workloads")
# Public, whatever they look like: those of named tuples, and os._exit.
PUBLIC = {"_replace", "_asdict", "_make", "_fields", "_field_defaults", "_exit"}
# Files of which a private use is the purpose, or has no other way; the reason stands beside each. "*" is any name.
ALLOWED: dict[str, dict[str, str]] = {
    "src/billet/sim/loop.py": {
        "_context": "asyncio has no public way to the context of a handle",
        "_log_destroy_pending": "asyncio has no public way to leave a task behind without a word",
    },
    "tests/sim/bugs.py": {"*": "puts bugs into private methods, on purpose"},
    "tests/sim/bugs_issue11.py": {"*": "puts bugs into private methods, on purpose"},
    "tests/sim/bugs_item7.py": {"*": "puts bugs into private methods, on purpose"},
}
BY_NAME = {"getattr", "setattr", "delattr", "hasattr", "object"}  # `object` is that of unittest.mock.patch


class Use(NamedTuple):
    """One use of a name that is private to another file."""

    path: str
    line: int
    column: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.name}"


def is_private(name: str) -> bool:
    """Whether a name is for its own file only."""
    return name.startswith("_") and name != "_" and not name.startswith("__") and name not in PUBLIC


def uses(path: str, source: str) -> list[Use]:
    """The uses in one file of what is private to others, in order. Raises SyntaxError."""
    tree = ast.parse(source, path)
    own = set(_defined(tree))
    return [
        Use(path, line, column + 1, name)
        for line, column, name in sorted(_used(tree))
        if name not in own and not _allowed(path, name)
    ]


def _allowed(path: str, name: str) -> bool:
    allowed = ALLOWED.get(path, {})
    return "*" in allowed or name in allowed


def _defined(tree: ast.Module) -> Iterator[str]:
    """All names that a file defines, of whatever kind."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case ast.Assign(
                targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=members) | ast.List(elts=members)
            ):
                yield from (m.value for m in members if isinstance(m, ast.Constant) and isinstance(m.value, str))


def _used(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """Line, column and name of each private name that is read, called, imported, or given as a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, end_lineno=int(line), end_col_offset=int(end)) if is_private(name):
                yield line, end - len(name), name
            case ast.ImportFrom(names=names):
                yield from ((a.lineno, a.col_offset, a.name) for a in names if is_private(a.name))
            case ast.Call(func=ast.Attribute(attr=called) | ast.Name(id=called), args=arguments) if called in BY_NAME:
                yield from _given_by_name(arguments[:2])


def _given_by_name(arguments: Iterable[ast.expr]) -> Iterator[tuple[int, int, str]]:
    for argument in arguments:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            name = argument.value.rpartition(".")[2]  # monkeypatch.setattr("module.name", ...)
            if is_private(name):
                yield argument.lineno, argument.col_offset, name


def check(root: Path, folders: Iterable[str]) -> list[Use]:
    """The uses in all Python files below these folders; paths are relative to `root`."""
    found = []
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            if not file.name.endswith("_pb2.py"):
                found += uses(file.relative_to(root).as_posix(), file.read_text())
    return found


def main(folders: list[str]) -> int:
    """The exit code."""
    found = check(Path(__file__).parents[1], folders or FOLDERS)
    for use in found:
        print(use)
    if found:
        print(f"{len(found)} uses of private names of other files: make them public, or move the code to the name.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
