"""A secret that two sides share, and its file. During a rotation the file has two lines: the new one and the old one.

Whoever checks the secret accepts each line. Whoever shows it tries the next line when one is refused. So the order in
which the machines get the new file does not matter.
"""

from __future__ import annotations

from hmac import compare_digest
from pathlib import Path

from billet.core.errors import ConfigError
from billet.reloading import Kept


class FileText(str):
    """The text of a file, which knows where it came from. As a setting it is a text like others."""

    path: str

    def __new__(cls, text: str, path: str) -> FileText:
        """The text, and the file's path."""
        self = super().__new__(cls, text)
        self.path = path
        return self


class Secret:
    """The lines that are in force. If the setting came from a file, they follow the file."""

    def __init__(self, setting: str) -> None:
        """`setting` "" = there is no secret."""
        path = setting.path if isinstance(setting, FileText) else ""
        self.kept = Kept(lambda: _lines(read_secret(path) if path else setting), [path])
        self._worked = ""  # the line that the other side has accepted

    @property
    def lines(self) -> tuple[str, ...]:
        """Every line that is accepted, in the order in which they should be shown; none without a secret."""
        lines = self.kept.value
        return tuple(sorted(lines, key=lambda line: line != self._worked))

    @property
    def shown(self) -> str:
        """The line to show; "" without a secret."""
        return next(iter(self.lines), "")

    def accepts(self, given: str) -> bool:
        """Whether the other side has shown this secret."""
        return any(compare_digest(given.encode(), line.encode()) for line in self.lines)

    def worked(self, line: str) -> None:
        """The other side has accepted this line: show it first from now on."""
        self._worked = line


def read_secret(path: str) -> str:
    """The content of a file without its final newline. Raises ConfigError."""
    try:
        content = Path(path).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path!r}, which cannot be read: {error}") from None
    if not content.strip():  # no secret would be no protection
        raise ConfigError(f"{path!r}, which is empty: write the secret into it, or drop the setting")
    return content


def _lines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for line in text.splitlines() if line.strip()))
