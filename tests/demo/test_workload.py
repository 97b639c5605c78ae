"""The demo's workload depends only on the seed, and fits on its hosts."""

import pytest

from billet.demo.workload import FILL, draw_shapes, host_sizes, spec_of, static_choice


def test_the_same_seed_gives_the_same_microvms():
    assert draw_shapes(60, 1) == draw_shapes(60, 1)
    assert draw_shapes(60, 1) != draw_shapes(60, 2)


def test_names_are_unique():
    assert len({shape.name for shape in draw_shapes(2000, 3)}) == 2000


@pytest.mark.parametrize("hosts", [1, 3, 5, 12])
@pytest.mark.parametrize("create", [12, 60, 500])
def test_the_hosts_are_big_enough(hosts, create):
    wanted = sum(shape.vcpu for shape in draw_shapes(create, 1))
    sizes = host_sizes(hosts, wanted)
    assert len({size.id for size in sizes}) == hosts
    assert wanted <= FILL * sum(size.vcpu for size in sizes)


def test_the_static_list_chooses_like_cluster_api():
    # crc32 of the name, modulo the number of hosts: zlib's and Go's IEEE polynomial are the same.
    assert static_choice("123456789", 5) == 0xCBF43926 % 5


def test_a_spec_is_complete():
    shape = draw_shapes(1, 1)[0]
    spec = spec_of(shape)
    assert (spec.id, spec.vcpu, spec.memory_in_mb) == shape
    assert spec.kernel.image
    assert spec.interfaces
    assert spec.root_volume.source.container_source
