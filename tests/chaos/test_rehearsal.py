"""A minute of chaos on real processes: a leader and machines that are lost, and agents that are not what they say."""

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
@pytest.mark.parametrize(
    ("scenario", "seed", "faults"),
    [
        ("rehearsal", 1, ["kill -9 the leader", "vanishes"]),
        ("broken", 2, ["has a full disk", "is restarted", "loses Deletes"]),
        ("intruders", 4, ["a twin", "a clone", "billet host rebind", "a second agent", "claims term"]),
    ],
)
def test_a_few_faults_under_load_break_no_promise(
    tmp_path: Path, scenario: str, seed: int, faults: list[str]
) -> None:
    command = [sys.executable, "-m", "chaos", scenario, "--seed", str(seed), "--keep", str(tmp_path / "chaos")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 violations" in done.stdout
    assert [fault for fault in faults if fault not in done.stdout] == []
