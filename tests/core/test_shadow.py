"""The shadow policy decides from the same bids, as if it were the real one."""

from hypothesis import given
from hypothesis import strategies as st

from billet.core.auction import award
from billet.core.bidding import bid
from billet.core.model import Award, HostView, Resources
from billet.core.policies import POLICIES
from billet.core.questions.shadow import shadow
from billet.core.scoring import Weights
from tests.core.strategies import auctions, facts, hosts

busy = st.builds(Resources, st.integers(0, 64), st.integers(0, 1 << 18), st.just(0), st.integers(0, 99))


@given(
    auction=auctions,
    machines=st.lists(st.tuples(hosts, busy, busy, facts), max_size=6, unique_by=lambda machine: machine[0].id),
    real=st.sampled_from(sorted(POLICIES)),
    other=st.sampled_from(sorted(POLICIES)),
)
def test_it_takes_whom_its_policy_would_have_taken_had_the_hosts_bid_by_it(auction, machines, real, other):
    """Also where the ledger has moved since the bids. Broken on purpose (bids taken as they are): another host."""
    ledger = {host.id: HostView(host.allocatable, now) for host, _, now, _ in machines}
    by = {
        policy: [bid(host, then, facts, auction, Weights(policy=policy)) for host, then, _, facts in machines]
        for policy in (real, other)
    }
    expected = award(auction, by[other], ledger, Weights(policy=other))
    taken = shadow(auction, by[real], ledger, Weights(policy=other))
    assert taken == (expected.host if isinstance(expected, Award) else "")
