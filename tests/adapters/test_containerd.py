"""A real containerd says which images are unpacked, and the adapter understands it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from billet.adapters.containerd import Containerd, layers_of
from billet.adapters.thinpool import free_mib, pool_free_mib
from billet.core.model import Image
from tests.containerd_fixture import LocalContainerd

KERNEL, ROOT = "registry.example/kernel:5.10", "registry.example/os:22.04"


@pytest.fixture
def daemon() -> Iterator[LocalContainerd]:
    with TemporaryDirectory(prefix="ctd") as folder:
        made = LocalContainerd(Path(folder))
        try:
            yield made.start()
        finally:
            made.stop()


@pytest.fixture
async def asked(daemon: LocalContainerd) -> AsyncIterator[Containerd]:
    made = Containerd(str(daemon.socket), volume_ss="overlayfs", kernel_ss="native")
    yield made
    await made.close()


async def test_an_image_is_there_for_the_use_that_it_is_unpacked_for(
    daemon: LocalContainerd, asked: Containerd
) -> None:
    assert await asked.unpacked() == frozenset()
    daemon.load(KERNEL, "native")
    assert await asked.unpacked() == {Image(KERNEL, kernel=True)}  # not for a volume
    daemon.load(ROOT, "overlayfs", unpack=False)
    assert await asked.unpacked() == {Image(KERNEL, kernel=True)}  # pulled, and not unpacked
    daemon.load(ROOT, "overlayfs")
    assert await asked.unpacked() == {Image(KERNEL, kernel=True), Image(ROOT)}
    other = Containerd(str(daemon.socket), "overlayfs", "native", namespace="other")
    assert await other.unpacked() == frozenset(), "a flintlockd with another --containerd-ns has none of them"
    await other.close()
    daemon.remove(KERNEL)
    assert await asked.unpacked() == {Image(ROOT)}


async def test_a_containerd_that_does_not_answer_is_said_and_asked_again(
    daemon: LocalContainerd, asked: Containerd
) -> None:
    daemon.load(ROOT, "overlayfs")
    assert await asked.unpacked() == {Image(ROOT)}
    daemon.stop()
    with pytest.raises(OSError, match=r"c\.sock"):
        await asked.unpacked()
    daemon.start()
    assert await asked.unpacked() == {Image(ROOT)}


async def test_without_a_socket_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="does not exist"):
        await Containerd(str(tmp_path / "none.sock"), "a", "b").unpacked()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is not a socket"):
        await Containerd(str(tmp_path / "file"), "a", "b").unpacked()


def test_the_layers_of_an_index_are_those_of_the_platform_that_was_unpacked() -> None:
    blobs = {
        "index": {"containerd.io/gc.ref.content.m.0": "arm", "containerd.io/gc.ref.content.m.1": "amd"},
        "amd": {"containerd.io/gc.ref.content.config": "config", "containerd.io/gc.ref.content.l.0": "layer"},
        "config": {"containerd.io/gc.ref.snapshot.devmapper": "top", "containerd.io/gc.ref.snapshot.native": "other"},
        "layer": {"containerd.io/uncompressed": "top"},
    }
    assert layers_of("index", blobs, "devmapper") == {"top"}
    assert layers_of("index", blobs, "overlayfs") == set()


def test_the_room_of_a_thin_pool_is_read_from_dmsetup() -> None:
    line = "0 209715200 thin-pool 7 1461/524288 409600/1638400 - rw discard_passdown queue_if_no_space - 1024"
    assert free_mib(line) == 76800  # three quarters of 100 GiB
    with pytest.raises(OSError, match="not a thin pool"):
        free_mib("0 8 linear 253:0 8")


async def test_a_thin_pool_that_cannot_be_asked_is_said() -> None:
    with pytest.raises(OSError) as error:  # noqa: PT011  # whichever: no dmsetup, no right to, or no such pool
        await pool_free_mib("billet-has-no-such-pool")
    assert "\n" not in str(error.value)
