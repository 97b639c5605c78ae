"""`billet accuracy HOST` tells an unknown host from one without booted microVMs."""

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.client import Client
from billet.core.accuracy import LATE, LATE_END, WINDOW, Outcome
from billet.core.model import Forecast
from billet.wire.auction_records import encode_outcome
from billet.wire.pb import fleet_pb2 as pb


@pytest.mark.parametrize("output", ["table", "json"])
def test_an_unknown_host_is_an_error_and_a_host_without_boots_is_not(monkeypatch, output):
    replies = {"Accuracy": pb.AccuracyReply(server="s1"), "Hosts": pb.HostsReply(hosts=[pb.HostView(id="h1")])}
    monkeypatch.setattr(Client, "fleet", lambda self, method, request, reply: replies[method])
    unknown = CliRunner().invoke(main, ["accuracy", "nohost", "-o", output])
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr.strip() == "billet: no host is named 'nohost'; `billet hosts` lists the hosts"
    idle = CliRunner().invoke(main, ["accuracy", "h1", "-o", output])
    assert idle.exit_code == 0
    assert ("has not seen a microVM boot on h1" in idle.stdout) == (output == "table")


@pytest.mark.parametrize(("in_force", "shown"), [(1.2, "x 1.20 +0.000"), (0.0, "No host's bids need a correction.")])
def test_the_corrections_are_those_that_the_leader_makes(monkeypatch, in_force, shown):
    """A ratio at which a correction neither begins nor ends. Broken on purpose (worked out from the outcomes): the
    command says that no host needs a correction while the leader makes one."""
    assert LATE_END < 1.2 < LATE
    outcome = Outcome("h1", "uid", 1.0, Forecast(0.5, 2.0, 3.0), 2.4, 0.5, 0.5)
    kept = pb.AccuracyReply(server="s1", outcome_json=[encode_outcome(outcome)] * WINDOW)
    hosts = pb.HostsReply(hosts=[pb.HostView(id="h1", delay_correction=in_force)])
    replies = {"Accuracy": kept, "Hosts": hosts}
    monkeypatch.setattr(Client, "fleet", lambda self, method, request, reply: replies[method])
    told = CliRunner().invoke(main, ["accuracy"])
    assert told.exit_code == 0
    assert shown in told.stdout
