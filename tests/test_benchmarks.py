"""`make bench` runs, and what it leaves has the shape that docs/benchmarks.md describes. No times are judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from billet.demo.etcd import etcd_program

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[1]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", "etcd"])
def test_the_benchmark_leaves_figures_and_a_chart(tmp_path, store):
    if store == "etcd" and etcd_program() is None:
        pytest.skip("no etcd on PATH")
    out = tmp_path / "made" / "figures.json"
    done = bench(
        "--hosts", "2", "--in-flight", "1,4", "--stores", store, "--placed", "0,5,5000",
        "--creates", "12", "--repeats", "2", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["machine"]["cores"] >= 1
    assert report["settings"]["in_flight"] == [1, 4]
    cases = report["cases"]
    # 5,000 on two hosts is more than a host takes: left out.
    assert [(c["hosts"], c["placed"], c["store"], c["in_flight"], c["creates"]) for c in cases] == [
        (2, placed, store, in_flight, creates) for placed in (0, 5) for in_flight, creates in ((1, 8), (4, 24))
    ]
    parts = {"server", "agents", "fakes", "client"} | ({"etcd"} if store == "etcd" else set())
    for case in cases:
        assert set(case["billet"]["cpu_ms"]) == parts
        assert set(case["floor"]["cpu_ms"]) == {"fakes", "client"}
        for figures in (case["billet"], case["floor"]):
            assert 0 < figures["p50_ms"] <= figures["p99_ms"]
            assert figures["creates_per_s"] > 0
        assert case["rate_to_floor"] > 0
        assert case["p50_to_floor"] > 0
    assert "</svg>" in out.with_suffix(".svg").read_text()


def test_a_wrong_option_is_one_line():
    done = bench("--stores", "sqlite,oracle")
    assert done.returncode == 2
    assert "oracle" in done.stderr
    assert "Traceback" not in done.stderr
