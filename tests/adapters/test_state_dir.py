"""An agent whose --state-dir is not there says which disk it measures instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from billet.adapters.identity import KeyIdentity
from billet.config_agent import AgentConfig
from billet.node_agent import build_agent


@pytest.mark.parametrize(
    ("folder", "disk_mib", "said"),
    [("not/there", 0, True), (".", 0, False), ("not/there", 100_000, False)],
    ids=["absent", "there", "absent, but the disk is given"],
)
async def test_the_disk_that_is_measured_instead_is_named(
    tmp_path: Path, folder: str, disk_mib: int, said: bool
) -> None:
    state_dir = str(tmp_path / folder)
    config = AgentConfig(link_insecure=True, state_dir=state_dir, disk_mib=disk_mib)
    with capture_logs() as logs:
        _, _, daemon, _ = build_agent(config, KeyIdentity.of_seed(bytes(32), "", ""))
    await daemon.close()
    told = [(line["state_dir"], line["measured"]) for line in logs if "--state-dir" in line["event"]]
    assert told == ([(state_dir, str(tmp_path))] if said else [])
