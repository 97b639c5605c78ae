"""Logs: one line each, as text or as JSON, with UTC times, and without secrets."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from billet.logs import log_to_stderr

SECRET = "Basic c2VjcmV0"
FORMS = ["text", "json"]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("form", FORMS)
def test_a_traceback_in_the_log_shows_no_secrets(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken on purpose (rich_traceback, or dict_tracebacks with its default): the locals of `fail` are shown."""
    log_to_stderr(form)
    try:
        fail({"authorization": SECRET})
    except RuntimeError:
        structlog.get_logger().exception("unexpected error")
    output = capsys.readouterr().err
    assert "RuntimeError: it broke" in output
    assert SECRET not in output


@pytest.mark.parametrize("form", FORMS)
def test_times_are_utc_and_say_so(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken on purpose (utc=False): the zone is missing, and the time is the machine's."""
    log_to_stderr(form)
    structlog.get_logger().warning("hello")
    found = re.search(r"[0-9]{4}-[0-9-]+T[0-9:.]+Z", capsys.readouterr().err)
    assert found
    assert abs(datetime.fromisoformat(found[0]) - datetime.now(UTC)) < timedelta(hours=0.4)


def test_each_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those of libraries, and what has line ends and control characters in it."""
    log_to_stderr("json")
    structlog.get_logger().info("joined", host="a\nb\x1b[31m", key=None)
    logging.getLogger("asyncio").error("%s failed", "handshake")
    try:
        fail({})
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("in a library")
    said = capsys.readouterr().err
    assert "\x1b" not in said
    joined, handshake, library = map(json.loads, said.splitlines())
    assert (joined["event"], joined["level"], joined["host"]) == ("joined", "info", "a\nb\x1b[31m")
    assert (handshake["event"], handshake["level"]) == ("handshake failed", "error")
    assert "RuntimeError: it broke" in library["exception"]
    assert all("time" in line for line in (joined, handshake, library))


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Libraries stay silent below a warning, even at level debug. Broken on purpose (root level DEBUG): they talk."""
    log_to_stderr("json", "warning")
    structlog.get_logger().info("not this")
    structlog.get_logger().warning("this")
    log_to_stderr("json", "debug")
    structlog.get_logger().debug("and this")
    logging.getLogger("picows").debug("GET /link Authorization: Bearer secret")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["this", "and this"]


def test_a_terminal_obeys_nothing_that_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken on purpose (without _printable): the escape sequence of the host's name comes out raw."""
    log_to_stderr()
    structlog.get_logger().info("joined", host="\x1b]0;pwn\x07")
    logging.getLogger("asyncio").error("from \x1b[31m%s", "host")
    said = capsys.readouterr().err
    assert "host=?]0;pwn?" in said
    assert "\x1b]0" not in said
    assert "\x1b[31mhost" not in said


def fail(metadata: dict[str, str]) -> None:
    raise RuntimeError("it broke")
