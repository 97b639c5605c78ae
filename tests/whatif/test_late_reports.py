"""Reports that are up to 200 requests old cost Billet no balance, because the ledger prices every bid anew."""

import random

from click.testing import CliRunner

from billet.cli import main
from billet.core import auction as core_auction
from billet.core.model import Refusal, Resources
from billet.core.scoring import Weights
from billet.whatif.rules import OTHERS, late, own
from billet.whatif.simulation import run
from billet.whatif.workload import Create, Delete, Mark, Workload

HOSTS, OLD = 20, 200  # hosts, requests


def half_full(seed):
    """Unequal hosts, filled to about 70 %, then as many gone as come."""
    chance = random.Random(seed)
    rooms = {f"h{n}": Resources(32 << n % 3, (32 << n % 3) * (2 + n % 4) * 1024, 0, 999) for n in range(HOSTS)}
    workload, living = Workload(f"seed {seed}", rooms), []
    for n in range(600):
        vcpu = chance.choice((1, 2, 2, 4, 8))
        workload.events.append(Create(f"v{n}", Resources(vcpu, vcpu * chance.choice((1024, 2048, 4096)), 0, 1)))
        living.append(f"v{n}")
        if n == 240:
            workload.events.append(Mark("filled"))
        if n > 240:
            workload.events.append(Delete(living.pop(chance.randrange(len(living)))))
    workload.events.append(Mark("churned"))
    return workload


def covs(rule, at_once=1):
    return [balance.cov for seed in range(2) for balance in run(half_full(seed), rule, at_once).marks.values()]


def test_with_reports_200_requests_old_billet_balances_as_with_fresh_ones():
    for at_once in (1, 32):
        fresh, old = covs(own(Weights()), at_once), covs(late(own(Weights()), OLD), at_once)
        assert all(abs(a - b) <= 0.05 * a for a, b in zip(fresh, old, strict=True))


def test_without_the_ledger_the_same_bids_herd(monkeypatch):
    """What the first test would see, were it not for the ledger; and what rules that trust reports do."""
    fresh = sum(covs(own(Weights())))
    right = core_auction.current_offer

    def as_it_was_bid(bid, *rest):
        offer = right(bid, *rest)
        return offer if isinstance(offer, Refusal) else bid.score

    monkeypatch.setattr(core_auction, "current_offer", as_it_was_bid)
    assert sum(covs(late(own(Weights()), OLD))) > 2 * fresh
    for name in ("least-loaded", "kube"):
        assert sum(covs(late(OTHERS[name], OLD))) > 1.5 * sum(covs(OTHERS[name]))


def test_a_rule_that_goes_by_no_reports_is_as_it_was():
    assert late(OTHERS["static"], OLD) is OTHERS["static"]
    assert late(OTHERS["kube"], 0) is OTHERS["kube"]


def test_the_command_has_it(tmp_path):
    rows = [f"host,h{n},32,131072" for n in range(4)] + [f"create,v{n},1,2048" for n in range(40)]
    (tmp_path / "w.csv").write_text("\n".join(rows))
    args = ["simulate", str(tmp_path / "w.csv"), "--against", "dominant", "-o", "json", "--reports-every"]
    fresh, old = (CliRunner().invoke(main, [*args, every]).stdout for every in ("0", "200"))
    assert fresh != old
