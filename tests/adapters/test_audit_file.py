"""The audit log's file: rotated by other tools, on a disk that may be full, and nothing is lost in silence."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from billet.adapters import audit_file
from billet.adapters.audit_file import AuditFile
from billet.core.errors import ConfigError

WITHIN_S = 20.0


def lost(lines: int) -> bytes:
    return b"lost %d" % lines


@pytest.fixture
def opened() -> Iterator[Callable[[Path], AuditFile]]:
    files: list[AuditFile] = []

    def run(path: Path) -> AuditFile:
        files.append(AuditFile(str(path), lost))
        return files[-1]

    yield run
    for file in files:
        file.close()


def eventually(holds: Callable[[], bool]) -> None:
    given_up_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < given_up_s, "it never came to hold"
        time.sleep(0.005)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_only_the_owner_can_read_it_whatever_the_umask(opened: Callable[[Path], AuditFile], tmp_path: Path) -> None:
    """Broken on purpose (mode 0o666): group and others can read it."""
    before = os.umask(0)
    try:
        opened(tmp_path / "audit.log")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


def test_what_was_there_stays_and_a_torn_end_has_a_line_of_its_own(
    opened: Callable[[Path], AuditFile], tmp_path: Path
) -> None:
    """Broken on purpose (no look at the last byte): the first new line is glued to the torn one."""
    path = tmp_path / "audit.log"
    path.write_text('{"one": 1}\n{"to')
    opened(path).append(b"new")
    eventually(lambda: lines(path) == ['{"one": 1}', '{"to', "new"])


def test_a_file_that_was_rotated_is_made_anew(opened: Callable[[Path], AuditFile], tmp_path: Path) -> None:
    """Broken on purpose (no comparison of inodes): later lines go to the renamed file."""
    path, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    file = opened(path)
    file.append(b"before")
    eventually(lambda: lines(path) == ["before"])
    path.rename(old)
    file.append(b"after")
    eventually(lambda: lines(path) == ["after"])
    path.unlink()
    file.append(b"once more")
    eventually(lambda: lines(path) == ["once more"])
    assert lines(old) == ["before"]


def test_lines_wait_while_the_disk_is_full_and_the_log_says_so(
    opened: Callable[[Path], AuditFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that find no place are counted, and a line says where they are missing. /dev/full is a disk that is full.

    Broken on purpose (the batch dropped after an error; no line about the loss): lines are missing, and nothing says
    so.
    """
    monkeypatch.setattr(audit_file, "MAX_WAITING", 3)
    monkeypatch.setattr(audit_file, "RETRY_S", 0.01)
    path, real = tmp_path / "audit.log", tmp_path / "real.log"
    path.symlink_to("/dev/full")
    with structlog.testing.capture_logs() as said:
        file = opened(path)
        file.append(b"1")
        eventually(lambda: [entry["event"] for entry in said] == ["audit log not written, lines wait"])
        for number in range(2, 10):
            file.append(b"%d" % number)
        path.unlink()
        path.symlink_to(real)
        eventually(lambda: lines(real) == ["1", "2", "3", "4", "lost 5"])
        eventually(lambda: len(said) == 2)
    assert said[0]["error"] == "No space left on device"
    assert said[1]["event"] == "audit log is written again"


LITTLE = """
import os, resource, sys
from billet.adapters import audit_file
audit_file.RETRY_S = 0.01
resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
file = audit_file.AuditFile(sys.argv[1], lambda lines: b"lost")
for number in range(4):
    file.append(b'{"line": %d}' % number)
while os.path.getsize(sys.argv[1]) < 25:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.close()
"""


def test_a_line_that_was_torn_is_written_again(tmp_path: Path) -> None:
    """The limit of a file's size stands for a disk that becomes full in the middle of a line, and is freed.

    Broken on purpose (only what write() took is removed from the batch): half of a line is missing.
    """
    path = tmp_path / "audit.log"
    subprocess.run([sys.executable, "-c", LITTLE, str(path)], check=True, timeout=60, stdout=subprocess.PIPE)
    whole, torn = [], []
    for line in lines(path):
        try:
            whole.append(json.loads(line)["line"])
        except ValueError:
            torn.append(line)
    assert whole == [0, 1, 2, 3]
    assert torn == ["{"]  # the 25th byte: two lines have twelve each


def test_appending_does_not_wait_for_the_disk(opened: Callable[[Path], AuditFile], tmp_path: Path) -> None:
    """A pipe that nobody reads stands for a disk that hangs. Broken on purpose (write in `append`): it never ends."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    file = opened(path)
    begun_s = time.process_time()
    for _ in range(20_000):
        file.append(b"x" * 100)
    assert time.process_time() - begun_s < 5
    with path.open("rb") as reader:
        read = b""
        while len(read) < 20_000 * 101:
            read += reader.read1(1 << 20)


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--audit-log .*/none/audit.log cannot be written: No such file"):
        AuditFile(str(tmp_path / "none" / "audit.log"), lost)
