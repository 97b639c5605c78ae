"""The errors: one tree with one code each, nothing outside of it, and flintlockd's "not found" in one place."""

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from billet.core import errors
from billet.core.errors import BilletError, Code, HostVerdict, NoRoom, says_not_found

SRC = Path(errors.__file__).parents[1]

# Exception classes outside core/errors.py, each with its reason.
ELSEWHERE = {
    "grpc/client_connection.py:NotSeen": "an RpcError; the client makes the call again",
    "grpc/metadata.py:Malformed": "the gRPC layer catches it",
    "grpc/status.py:RpcError": "how any gRPC call ends; the adapters and the API translate it",
    "cli.py:CommandError": "click prints it and sets the exit code",
    "cli.py:UsageFailure": "click prints it and sets the exit code",
    "link/dial.py:TokenRefused": "an OSError; the dialler tries the other token, or again later",
    "fake/http.py:PortTaken": "the fake flintlockd is a program of its own; its command catches it",
    "fake/model.py:Panic": "the fake flintlockd imitates a crash",
    "sim/loop.py:StuckError": "the simulator itself is broken; nobody may catch it as an error of Billet",
    "store/log_file.py:Damaged": "an sqlite3 error that never leaves its file",
}


def tree() -> dict[str, tuple[str, Code]]:
    """The docstring's tree: for each class its parent and its code."""
    found: dict[str, tuple[str, Code]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+) +([A-Z_]+)(?:  +\S|$)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            found[match[2]] = (path[depth - 1] if depth else "Exception", Code[match[3]])
    return found


def subclasses(kind: type[BilletError]) -> Iterator[type[BilletError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


@cache
def sources() -> list[tuple[str, ast.Module]]:
    paths = [path for path in sorted(SRC.rglob("*.py")) if not path.stem.endswith("_pb2")]
    return [(str(path.relative_to(SRC)), ast.parse(path.read_text())) for path in paths]


def test_the_tree_in_the_docstring_has_every_class_with_its_parent_and_code() -> None:
    ours = [kind for kind in subclasses(BilletError) if kind.__module__.startswith("billet.")]
    assert tree() == {kind.__name__: (kind.__bases__[0].__name__, kind.code) for kind in ours}


def test_no_other_file_defines_an_exception() -> None:
    exceptions = {
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    exceptions |= {*tree(), "ClickException", "DatabaseError"}
    bases = {
        f"{path}:{node.name}": {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path, module in sources()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and path != "core/errors.py"
    }
    defined: set[str] = set()
    while more := {where for where, names in bases.items() if names & exceptions} - defined:
        defined |= more
        exceptions |= {where.partition(":")[2] for where in more}
    assert defined == set(ELSEWHERE)


def test_nobody_changes_a_code_afterwards() -> None:
    assigned = [
        f"{path}:{node.lineno}"
        for path, module in sources()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "code"
        if not ast.unparse(node.value).endswith("record")  # the record of an auction, which has a code of its own
    ]
    assert assigned == []


def test_the_words_not_found_are_written_once() -> None:
    written = [
        f"{path}:{node.lineno}"
        for path, module in sources()
        for node in literals(module)
        if says_not_found(node.value.lower()) and not path.startswith("fake/")
    ]
    assert [where.partition(":")[0] for where in written] == ["core/errors.py"]


def literals(module: ast.Module) -> Iterator[ast.Constant]:
    """All string literals but docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


@pytest.mark.parametrize(
    ("error", "status"),
    [(HostVerdict(5, "x"), 5), (HostVerdict(99, "x"), 99), (NoRoom("x"), 8), (BilletError("x"), 13)],
)
def test_a_client_gets_the_class_code_and_a_host_verdict_its_own(error: BilletError, status: int) -> None:
    assert error.status == status
    assert str(error) == error.text == "x"
