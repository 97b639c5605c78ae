"""What the machine says of itself, and that it does not make up what it cannot say."""

from pathlib import Path

import pytest

from billet.adapters.machine import MachineProbe, Stalled, parse_psi

LINE = "some avg10={avg:.2f} avg60=0.00 avg300=0.00 total={total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


def test_a_stall_is_measured_from_the_kernels_own_sum_and_smoothed(tmp_path: Path) -> None:
    psi = tmp_path / "cpu"
    psi.write_text(LINE.format(avg=50.0, total=1_000_000))
    stalled = Stalled(psi)
    assert stalled.share(100.0) == 0.5  # the kernel's own mean, to begin with
    psi.write_text(LINE.format(avg=0.0, total=1_000_000))
    assert stalled.share(110.0) == pytest.approx(0.25)  # nothing for one half-life
    psi.write_text(LINE.format(avg=0.0, total=11_000_000))
    assert stalled.share(120.0) == pytest.approx(0.625)  # all of the time for another


def test_without_psi_there_is_no_share_and_not_0(tmp_path: Path) -> None:
    assert Stalled(tmp_path / "nothing").share(1.0) is None
    (tmp_path / "other").write_text("what is this\n")
    assert Stalled(tmp_path / "other").share(1.0) is None
    with pytest.raises(ValueError, match="full"):
        parse_psi("full avg10=1.00 total=1")


def test_what_is_truly_free_counts_only_where_it_is_measured(tmp_path: Path) -> None:
    machine = MachineProbe(str(tmp_path / "not" / "there"))
    real, measured = machine.capacity(10), machine.measure()
    assert measured.memory_free_mib is not None
    assert measured.volumes_free_mib is not None
    assert 0 < measured.memory_free_mib <= real.memory_mib
    assert not any("not measured" in lack for lack in machine.describe().lacks)
    machine.is_said_to_have(memory=True, disk=True)
    measured = machine.measure()
    assert (measured.memory_free_mib, measured.volumes_free_mib) == (None, None)
    assert sum("not measured" in lack for lack in machine.describe().lacks) == 2
    machine.has_pool, machine.pool_free_mib = True, 4321
    assert machine.measure().volumes_free_mib == 4321
