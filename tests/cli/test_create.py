"""`billet create --wait` waits for every microVM and lists those that failed."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.core.errors import HostVerdict
from billet.wire.pb import fleet_pb2, flintlock_pb2
from billet.wire.pb.flintlock_types_pb2 import MicroVM, MicroVMSpec, MicroVMStatus

FULL = "RESOURCE_EXHAUSTED: no host can take it"
SPEC = "{id: web, namespace: ns, vcpu: 1, memory_in_mb: 1024}"


class Fleet:
    """A fake client: microVMs named in `ends` end that way, after `looks` Get calls."""

    def __init__(self, ends, looks=2):
        self.ends, self.looks, self.asked, self.names = ends, looks, Counter(), []

    def __call__(self, address, timeout_s):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin(self, method, request, reply):
        if method == "DeleteMicroVM":
            return request.uid
        self.names.append(request.microvm.id)
        return request.microvm

    def finish(self, spec):
        if isinstance(spec, str):
            if spec in self.ends:
                raise HostVerdict(14, "UNAVAILABLE: the host does not answer")
            return None
        if self.ends.get(spec.id) == "interrupted":
            raise KeyboardInterrupt
        if self.ends.get(spec.id) == "refused":
            raise HostVerdict(8, FULL)
        return flintlock_pb2.CreateMicroVMResponse(microvm=self.vm(spec.id, MicroVMStatus.PENDING))

    def flintlock(self, method, request, reply):
        name = request.uid.removeprefix("U-")
        self.asked[name] += 1
        if self.ends.get(name) == "away":
            raise HostVerdict(14, "UNAVAILABLE: the host does not answer")
        end = MicroVMStatus.FAILED if self.ends.get(name) == "failed" else MicroVMStatus.CREATED
        slow = self.asked[name] < self.looks or self.ends.get(name) == "never"
        return flintlock_pb2.GetMicroVMResponse(microvm=self.vm(name, MicroVMStatus.PENDING if slow else end))

    def fleet(self, method, request, reply):
        return fleet_pb2.PlacementsReply()

    def vm(self, name, state):
        spec = MicroVMSpec(id=name, namespace="ns", uid=f"U-{name}", vcpu=1, memory_in_mb=1024)
        return MicroVM(spec=spec, status=MicroVMStatus(state=state))


def create(tmp_path, monkeypatch, fleet, *args):
    (tmp_path / "web.yaml").write_text(SPEC)
    monkeypatch.setattr("billet.client.Client", fleet)
    monkeypatch.setattr("billet.commands.microvm.POLL_S", 0.0)
    return CliRunner().invoke(main, ["create", "-f", str(tmp_path / "web.yaml"), "-o", "json", *args])


def states(done):
    return {row["name"]: row["state"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize(("end", "why"), [("refused", FULL), ("failed", "FAILED"), ("away", "does not answer")])
def test_a_failure_is_listed_and_the_others_are_waited_for(tmp_path, monkeypatch, end, why):
    """Planted fault (stop waiting at the first failure): web-3 is still PENDING."""
    fleet = Fleet({"web-2": end})
    done = create(tmp_path, monkeypatch, fleet, "--count", "3", "--wait")
    assert done.exit_code == 1
    assert {states(done)["web-1"], states(done)["web-3"]} == {"CREATED"}
    lines = done.stderr.splitlines()
    assert lines[0].startswith("web-2: ")
    assert why in lines[0]
    assert lines[1:] == ["billet: 1 of 3 failed: web-2"]


def test_all_failures_are_listed_and_no_further_creates_are_sent(tmp_path, monkeypatch):
    fleet = Fleet({"web-2": "refused", "web-5": "refused", "web-7": "never"}, looks=1)
    done = create(tmp_path, monkeypatch, fleet, "--count", "40", "--wait", "--wait-s", "0")
    assert done.exit_code == 1
    assert len(fleet.names) == 16
    assert Counter(states(done).values()) == {"CREATED": 13, "PENDING": 1}
    failed = "billet: 3 of 40 failed: web-2, web-5, web-7; 24 others not tried"
    assert done.stderr.splitlines()[-1] == failed


def test_a_single_failure_prints_only_the_servers_text(tmp_path, monkeypatch):
    done = create(tmp_path, monkeypatch, Fleet({"web": "refused"}), "--wait")
    assert (done.exit_code, done.stderr) == (1, f"billet: {FULL}\n")


def test_without_wait_the_state_is_not_polled(tmp_path, monkeypatch):
    fleet = Fleet({})
    done = create(tmp_path, monkeypatch, fleet, "--count", "2")
    assert done.exit_code == 0
    assert states(done) == {"web-1": "PENDING", "web-2": "PENDING"}
    assert not fleet.asked


def test_ctrl_c_tells_what_was_created_and_what_may_be(tmp_path, monkeypatch):
    """Broken on purpose (those that are not answered count as not tried): web-2 and web-3 are missing."""
    done = create(tmp_path, monkeypatch, Fleet({"web-2": "interrupted"}), "--count", "17")
    assert done.exit_code == 130
    assert states(done) == {"web-1": "PENDING"}
    first, second, third = done.stderr.splitlines()
    assert first == "billet: interrupted: 1 of 17 created"
    assert second.startswith("billet: unanswered, so they may be created still: web-2, web-3, ")
    assert third == "billet: 1 other not tried"


def test_each_failed_delete_is_listed(monkeypatch):
    """Planted fault (stop at the first error): the third uid is missing from the errors."""
    a, b, c = (letter * 26 for letter in "ABC")
    monkeypatch.setattr("billet.client.Client", Fleet({b: "away", c: "away"}))
    done = CliRunner().invoke(main, ["delete", a, b, c, "-o", "json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"deleted": [a]}
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [b, c, "billet"]
    assert done.stderr.endswith(f"billet: 2 of 3 failed: {b}, {c}\n")
