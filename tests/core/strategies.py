"""What hosts and requests may look like, for hypothesis."""

from hypothesis import strategies as st

from billet.core.model import Auction, Facts, Host, Resources

demands = st.builds(
    Resources,
    vcpu=st.integers(1, 64),
    memory_mib=st.integers(1024, 32768),
    disk_mib=st.integers(0, 100_000),
    vms=st.just(1),
)
amounts = st.builds(
    Resources,
    vcpu=st.integers(0, 256),
    memory_mib=st.integers(0, 1 << 20),
    disk_mib=st.integers(0, 1 << 22),
    vms=st.integers(0, 1000),
)
capacities = st.builds(
    Resources,
    vcpu=st.integers(1, 256),
    memory_mib=st.integers(1024, 1 << 20),
    disk_mib=st.integers(1, 1 << 22),
    vms=st.integers(1, 1000),
)
facts = st.builds(
    Facts,
    pressure=st.none() | st.floats(0, 1),
    pending=st.integers(0, 200),
    boot_s=st.just(0.0) | st.floats(0.001, 60),
    ahead_s=st.none() | st.floats(0, 6000),
    pull_s=st.none() | st.floats(0, 600),
    uncertainty=st.floats(0, 3),
    pulls=st.integers(0, 5),
    boots_seen=st.floats(0, 39),
    pulls_seen=st.floats(0, 39),
)
host_ids = st.text("abcdefgh0123456789-", min_size=1, max_size=8)
hosts = st.builds(
    Host,
    id=host_ids,
    capacity=capacities,
    allocatable=capacities,
    provider=st.sampled_from(["", "firecracker", "cloudhypervisor"]),
    cordoned=st.booleans(),
    fenced=st.sampled_from([False, False, False, True]),
)
auctions = st.builds(
    Auction,
    id=st.text("0123456789ABCDEFGH", min_size=8, max_size=8),
    namespace=st.just("ns"),
    name=st.just("vm"),
    demand=demands,
    provider=st.sampled_from(["", "firecracker", "cloudhypervisor", "qemu"]),
    needs_macvtap=st.booleans(),
    needs_virtiofs=st.booleans(),
)
