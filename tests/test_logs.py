"""Logs contain no secrets."""

from __future__ import annotations

import pytest
import structlog

from billet.process import logging_to_stderr

SECRET = "Basic c2VjcmV0"


def test_a_traceback_in_the_log_shows_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    logging_to_stderr()
    try:
        fail({"authorization": SECRET})
    except RuntimeError:
        structlog.get_logger().exception("unexpected error")
    finally:
        structlog.configure(**before)
    output = capsys.readouterr().err
    assert "RuntimeError: it broke" in output
    assert SECRET not in output


def fail(metadata: dict[str, str]) -> None:
    raise RuntimeError("it broke")
