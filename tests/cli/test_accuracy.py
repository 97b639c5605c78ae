"""`billet accuracy HOST` tells an unknown host from one without booted microVMs."""

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.client import Client
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
