"""The HTML reports of `billet simulate` and `billet replay`."""

from __future__ import annotations

from pathlib import Path

from billet.core.errors import ConfigError


def write_report(path: Path, text: str) -> None:
    """Write an HTML report. Raises ConfigError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path} cannot be written: {error.strerror}") from None
