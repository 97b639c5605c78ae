"""Files and functions in src/ stay small: no file over 350 lines, no function over 46, half of them 6 or fewer.

`python -m scripts.check_size` prints what is too long, as file:line, and fails if anything is. A function counts from
its `def` to its last line; generated files (*_pb2.py) do not count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

FILE_LINES = 350
FUNCTION_LINES = 46
MEDIAN_LINES = 6


class Function(NamedTuple):
    """A function, a method, or a function within one."""

    path: str
    line: int
    name: str
    lines: int


def functions(path: str, source: str) -> Iterator[Function]:
    """All functions of a file. Raises SyntaxError."""
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield Function(path, node.lineno, node.name, node.end_lineno - node.lineno + 1)


def check(sources: Iterable[tuple[str, str]]) -> list[str]:
    """What is too long in these files, given as path and content; one line each."""
    found: list[str] = []
    all_functions: list[Function] = []
    for path, source in sources:
        lines = len(source.splitlines())
        if lines > FILE_LINES:
            found.append(f"{path}:1: {lines} lines, at most {FILE_LINES}: move a part of it to a file of its own")
        all_functions += functions(path, source)
    for path, line, name, lines in sorted(all_functions):
        if lines > FUNCTION_LINES:
            found.append(f"{path}:{line}: {name} has {lines} lines, at most {FUNCTION_LINES}: take a step out of it")
    if all_functions and (middle := median(function.lines for function in all_functions)) > MEDIAN_LINES:
        found.append(
            f"half of the {len(all_functions)} functions have {middle:g} lines or more, at most {MEDIAN_LINES}"
        )
    return found


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Path and content of each Python file in src/ that is written by hand."""
    for file in sorted((root / "src").rglob("*.py")):
        if not file.name.endswith("_pb2.py"):
            yield file.relative_to(root).as_posix(), file.read_text()


def main() -> int:
    """The exit code."""
    found = check(sources(Path(__file__).parents[1]))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
