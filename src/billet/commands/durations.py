"""Durations as options take them: 30d."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Duration(click.ParamType[float]):
    """A number and a unit, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse for example 30d."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", str(value))
        if not found:
            self.fail(f"{value!r} is not a duration: give a number and m, h, d or w, for example 30d", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]
