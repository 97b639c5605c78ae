"""A minute of chaos on real processes: the leader killed, the leader's machine and a host's machine vanishing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from billet.demo.etcd import etcd_program
from chaos.namespaces import why_not

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.skipif(not etcd_program(), reason="no etcd; on Debian: apt-get install etcd-server")
def test_three_faults_under_load_break_no_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "rehearsal", "--seed", "1", "--keep", str(tmp_path / "chaos")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 violations" in done.stdout
    assert "kill -9 the leader" in done.stdout
    assert done.stdout.count("vanishes") >= 2
