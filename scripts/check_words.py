"""Words and identifiers that were replaced do not come back: in src/, docs/, README, CONTRIBUTING and `--help`.

`python -m scripts.check_words` prints file:line:word and what stands for it now, and fails if there is one.

* Identifiers are compared whole, or part by part (`_wish_weight` has the parts wish and weight).
* Words are looked for in prose: comments, strings, help texts, Markdown. Those that also have an ordinary meaning
  (front, face, edge, turn) are looked for in the sense that was replaced.
* In CHANGELOG and docs/adr a paragraph may name an old word beside "renamed", "formerly", "was called" or an arrow.
* The tables below the heading "Old ..." in CONTRIBUTING are left out.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import click

# Parts of identifiers, in lower case, and what stands for each now.
PARTS = {
    "office": "leadership",
    "reign": "term",
    "attendance": "presence",
    "bury": "watch the leader, or close",
    "buried": "watched, or closed",
    "seldom": "log throttle",
    "weather": "fault plan",
    "mayhem": "fault injector",
    "foretell": "forecast",
    "foretold": "forecast, predicted",
    "outlook": "pooled, pooling",
    "bootroom": "boot queue",
    "wish": "constraint, preference",
    "wishes": "constraints, preferences",
    "wished": "required, preferred",
    "wishing": "constrained",
    "wishful": "constrained",
    "unwished": "unconstrained",
    "kin": "peers",
    "mend": "fix",
    "settle": "finish, resolve",
    "settled": "finished, resolved",
    "unsettled": "unresolved",
    "auditor": "accuracy tracker",
}
# Whole identifiers; without leading underscores, and in the spelling that they had.
IDENTIFIERS = {
    "against": "excluded_by",
    "front": "leader proxy",
    "edge": "gRPC server",
    "edges": "gRPC servers",
    "Edge": "GrpcServer",
    "face": "route",
    "story": "auction recorder, trace",
    "Story": "AuctionRecorder",
    "without_story": "without_trace",
    "turn": "slot",
    "in_turn": "slot",
    "turn_s": "slot",
    "Turn": "Slot",
    "How": "CreateOptions",
    "BootRoom": "BootQueue",
    "Count": "HostInventory",
    "Fenced": "StaleTerm",
    "Audit": "Accuracy",
    "AUDIT": "ACCURACY",
    "AuditReply": "AccuracyReply",
    "AuditRequest": "AccuracyRequest",
    "audit_delay": "delay_correction",
    "audit_utilisation": "utilisation_correction",
    "link_server": "link.server",
    "link_agent": "link.agent",
    "SPREAD_OF": "UNCERTAINTY_OF",
}
# Regular expressions for prose. A space stands for any white space; none begins or ends within a word.
WORDS = {
    r"offices?": "leadership",
    r"reign(?:s|ed|ing)?": "term",
    r"attendance": "presence",
    r"bur(?:y|ies|ied|ying)": "watch the leader; end",
    r"mayhem": "fault injector",
    r"weather": "fault plan",
    r"foretell(?:s|ing)?": "forecast, predict",
    r"foretold": "forecast, predicted",
    r"outlooks?": "pooled, pooling",
    r"boot ?rooms?": "boot queue",
    r"(?:un)?wish(?:es|ed|ing|ful)?": "constraint (required), preference (soft)",
    r"kin": "peers",
    r"ma(?:kes?|king|de) (?:\w+ )?again": "recreate",
    r"mend(?:s|ed|ing)?": "fix",
    r"what came": "actual",
    r"settl(?:es?|ed|ing)": "finish; resolve, for an unknown outcome",
    r"audit(?:s|ed|or|ors|ing)?(?!(?: |[-_.])logs?\b)": "accuracy",
    r"(?:the|its|each|every|own|real|server's) \W?front(?!-| of| page| end)": "leader proxy",
    r"(?:grpc|listening|the|its|each|every|http) \W?edge(?! of| case)": "gRPC server",
    r"(?:grpc|its|each|every|zone's|the) \W?face(?! of)": "gRPC server, route",
    r"(?:auction|clearing)(?:'s)? turn|turns? to decide": "slot",
    r"stor(?:y|ies)": "trace; the auction's record",
    r"raises? fenced": "raises StaleTerm",
    r"fenced, outcomeunknown": "StaleTerm, OutcomeUnknown",
    r"spread x|(?:a|its|the) spread (?:is|itself|over what)|(?:facts|outlook|pooled)\.spread": "uncertainty",
    r"spread of (?:its |the |a host's )?(?:boots?|pulls?|times|seconds)": "uncertainty",
    r"(?:the|a|its|host's|agent's) count of what": "inventory",
    r"who wants": "(say who does what)",
    r"such that": "(so that; or two sentences)",
    r"control[./](?:agent|count|daemon)": "host/",
    r"control[./](?:auctioneer|clearing|deletes|ledger|office|operator|reconciler|reign)": "leader/",
    r"adapters[./](?:link_agent|link_server|outbox|pipes|rounds)": "link/",
    r"adapters[./](?:backup|etcd|groupcommit|sqlite|stores)": "store/",
    r"(?:api|core|demo|sim)[./](?:books|edge|evidence|front|prices|stale|story|wishes)\.py": "the file's new name",
}


class Stays(NamedTuple):
    """An old word that is right where it stands: files, the text around it, and why."""

    files: str  # a pattern of fnmatch
    text: str  # a regular expression; it covers the word
    why: str


STAYS = (
    Stays("*", r"front-proxy", "Kubernetes' own name of a certificate"),
    Stays("*", r"pip-audit", "the name of a program"),
    Stays(
        "*",
        r"docs/adr/\d{4}-[\w-]+|adr/\d{4}-[\w-]+|\b\d{4}-[\w-]+\.md",
        "names of ADR files stay, so that links hold",
    ),
    Stays(
        "src/billet/wire/auction_records.py",
        r"wished (?:zone|host|label)|\"wishes\"|\"foretold\"",
        "names and texts in records of older layouts, which must still load",
    ),
)
HISTORY = ("CHANGELOG.md", "docs/adr/*")
RENAMED = re.compile(r"→|->|\brenamed\b|\bformerly\b|\bwas called\b|\bwere called\b|\bnow called\b", re.IGNORECASE)
UPSTREAM = ("flintlock", "flintlock_types", "etcd_kv", "etcd_rpc", "containerd")  # .proto files of others
CODE_IN_PROSE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"(?<![\w-])[A-Za-z_]\w*")  # `--against` is an option, whose name is its own
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
PROSE_TOKENS = {"COMMENT", "STRING", "FSTRING_MIDDLE"}
EVERY_WORD = re.compile(  # of a text in lower case, which is faster than to ignore case
    rf"(?<![a-z])(?:{'|'.join(f'(?P<w{n}>{word})' for n, word in enumerate(WORDS))})(?![a-z])".replace(" ", r"\s+")
)
INSTEAD = list(WORDS.values())


class Found(NamedTuple):
    """An old word, and what stands for it now."""

    path: str
    line: int
    word: str
    now: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.word}  (now: {self.now})"


# What to look at.


def check_python(path: str, source: str) -> Iterator[Found]:
    """The old identifiers and words of one Python file."""
    prose = [[" "] * len(line) for line in source.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "NAME":
            yield from _identifier(path, token.start[0], token.string)
        elif kind in PROSE_TOKENS:
            _copy(token, prose)
    yield from check_prose(path, "\n".join("".join(line) for line in prose))


def check_markdown(path: str, text: str) -> Iterator[Found]:
    """The old words of a Markdown page, and old identifiers in `code`."""
    text = _without_table_of_names(text) if path == "CONTRIBUTING.md" else text
    for code in CODE_IN_PROSE.finditer(text):
        for name in NAME.findall(code.group(1)):
            if name.lstrip("_") in IDENTIFIERS and not _history(path, text, code.start()):
                yield from _identifier(path, _line(text, code.start()), name)
    yield from check_prose(path, text)


def check_prose(path: str, text: str) -> Iterator[Found]:
    """The old words of a text."""
    text = "".join(_uncommented(text))
    kept = [span.span() for stays in STAYS if fnmatch(path, stays.files) for span in re.finditer(stays.text, text)]
    for match in EVERY_WORD.finditer(text.lower()):
        if any(start <= match.start() < end for start, end in kept) or _history(path, text, match.start()):
            continue
        word = " ".join(text[match.start() : match.end()].split())
        yield Found(path, _line(text, match.start()), word, INSTEAD[int((match.lastgroup or "w0")[1:])])


def _identifier(path: str, line: int, name: str) -> Iterator[Found]:
    whole = IDENTIFIERS.get(name.lstrip("_"))
    if whole:
        yield Found(path, line, name, whole)
        return
    for part in PART.findall(name):
        if part.lower() in PARTS:
            yield Found(path, line, name, PARTS[part.lower()])
            return


def _copy(token: tokenize.TokenInfo, prose: list[list[str]]) -> None:
    """Put a token's text in its place, on a page that is otherwise empty."""
    (row, column), lines = token.start, token.string.split("\n")
    for n, line in enumerate(lines):
        at = column if n == 0 else 0
        prose[row - 1 + n][at : at + len(line)] = line


def _uncommented(text: str) -> Iterator[str]:
    """A comment that goes on in the next line is one text."""
    return (re.sub(r"^(\s*)#", r"\1 ", line) for line in text.splitlines(keepends=True))


def _without_table_of_names(text: str) -> str:
    lines, below = [], False
    for line in text.splitlines():
        if line.startswith("## "):
            below = line.startswith("## Old ")
        lines.append("" if below and line.startswith("|") else line)
    return "\n".join(lines)


def _history(path: str, text: str, at: int) -> bool:
    """Whether a place is in a paragraph, or an item of a list, that describes how something was renamed."""
    if not any(fnmatch(path, pattern) for pattern in HISTORY):
        return False
    breaks = [m.start() for m in re.finditer(r"\n\s*\n|\n\s*[*-] ", text)]
    start = max((b for b in breaks if b < at), default=0)
    end = min((b for b in breaks if b > at), default=len(text))
    return RENAMED.search(text[start:end]) is not None


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


# All of it.


def check_files(root: Path) -> Iterator[Found]:
    """The old words in the repository's files."""
    for file in sorted((root / "src").rglob("*.py")):
        if not file.name.endswith("_pb2.py"):
            yield from check_python(file.relative_to(root).as_posix(), file.read_text())
    for file in sorted((root / "src").rglob("*.proto")):
        if file.stem not in UPSTREAM:
            yield from check_prose(file.relative_to(root).as_posix(), file.read_text())
    for file in (*sorted((root / "docs").rglob("*.md")), *sorted(root.glob("*.md"))):
        yield from check_markdown(file.relative_to(root).as_posix(), file.read_text())


def check_help(command: click.Command, name: str) -> Iterator[Found]:
    """The old words in the help of a command and of all below it."""
    context = click.Context(command, info_name=name)
    yield from check_prose(f"{name} --help", command.get_help(context))
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found:
                yield from check_help(found, f"{name} {child}")


def report(found: Iterable[Found]) -> int:
    """Print what was found, each place once; the exit code."""
    lines = list(dict.fromkeys(map(str, found)))
    for line in lines:
        print(line)
    if lines:
        print(
            f"{len(lines)} old words; CONTRIBUTING has the table of names. What must stay goes into STAYS, with why."
        )
    return 1 if lines else 0


def main() -> int:
    """The exit code."""
    from billet.cli import main as billet  # here, because it takes as long as all the rest

    return report(chain(check_files(Path(__file__).parents[1]), check_help(billet, "billet")))


if __name__ == "__main__":
    sys.exit(main())
