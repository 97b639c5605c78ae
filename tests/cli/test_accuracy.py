"""`billet audit HOST`: a host of which nothing is known yet, and one that there is not."""

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.client import Client
from billet.wire.pb import fleet_pb2 as pb


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_slip_in_a_hosts_name_is_told_apart_from_a_host_that_booted_nothing(monkeypatch, output):
    replies = {"Accuracy": pb.AccuracyReply(server="s1"), "Hosts": pb.HostsReply(hosts=[pb.HostView(id="h1")])}
    monkeypatch.setattr(Client, "fleet", lambda self, method, request, reply: replies[method])
    slip = CliRunner().invoke(main, ["accuracy", "nohost", "-o", output])
    assert (slip.exit_code, slip.stdout) == (1, "")
    assert slip.stderr.strip() == "billet: there is no host 'nohost'; billet hosts lists them"
    idle = CliRunner().invoke(main, ["accuracy", "h1", "-o", output])
    assert idle.exit_code == 0
    assert ("has seen no microVM boot on h1" in idle.stdout) == (output == "table")
