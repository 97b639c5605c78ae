"""Prometheus' own programs, which `make setup` takes out of Debian's package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"


def program(name: str) -> str:
    """prometheus or promtool, of PATH or the checkout. Skips the test where there is none."""
    own = ROOT / ".tools" / "bin" / name
    found = shutil.which(name) or (str(own) if own.exists() else "")
    if not found:
        pytest.skip(f"no {name}: apt-get install prometheus, or make setup where apt-get works")
    return found
