"""The generator writes the committed workloads again, byte for byte, and the rest with the committed checksums."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

import workloads
from workloads.__main__ import main
from workloads.generator import WorkloadId, standard, text
from workloads.tables import central

FOLDER = Path(workloads.__file__).parent
SUMS = dict(reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_a_committed_workload_is_what_the_generator_writes(path: Path) -> None:
    shape, hosts, seed = path.stem.split("-")
    assert text(WorkloadId(shape, int(hosts[1:]), int(seed[1:]))) == path.read_text()


def test_every_workload_has_the_committed_checksum() -> None:
    assert {f"{workload.name}.json": sha256(text(workload).encode()).hexdigest() for workload in standard()} == SUMS


def test_the_docs_have_the_figures_of_the_central_table() -> None:
    """The docs may name a rule otherwise; the figures must be the same."""
    rows = {row.split("|")[1].strip(): row.split("|")[2:-1] for row in central()}
    spread = [cell.strip() for cell in rows["billet spread"]]
    assert spread == ["0.063", "0.086", "1.24, 1.30", "11.1 %, 2.4 %", "2.4 %", "5.6 %", "12.1 %"]
    pages = "".join(page.read_text() for page in (FOLDER.parent / "docs").rglob("*.md")).replace("*", "")
    for title, cells in rows.items():
        if title not in ("rule", "---"):
            assert "|".join(cells) in pages, title


def test_the_command_prints_a_table() -> None:
    done = CliRunner().invoke(main, ["table", "--help"])
    assert done.exit_code == 0
    assert "central" in done.output
