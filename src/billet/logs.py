"""Where log lines go and what they look like: one line each on standard error, as text or as JSON."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

Processors = list[Any]  # structlog's own type is not exported


def log_to_stderr(form: str = "text", level: str = "info") -> None:
    """Send logs to standard error; standard output is for results. Times are UTC.

    Tracebacks omit local variables, because clients' requests and headers contain secrets. Libraries' own lines come
    out in the same form, from `warning` upwards: below that they may write what they send and receive.
    """
    lowest = logging.getLevelNamesMapping()[level.upper()]
    facts: Processors = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    rendered = _as_json() if form == "json" else _as_text()
    structlog.configure(
        processors=[*facts, structlog.dev.set_exc_info, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=facts, processors=[meta, *rendered]))
    logging.basicConfig(handlers=[handler], level=max(lowest, logging.WARNING), force=True)


def _as_json() -> Processors:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _as_text() -> Processors:
    return [
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
        ),
    ]


def _printable(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Control characters, which hosts or clients may have sent, as "?": a terminal would obey them."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(char if char.isprintable() or char == "\n" else "?" for char in value)
    return event
