"""A store by its URL."""

from pathlib import Path

import pytest

from billet.core.errors import ConfigError
from billet.store.etcd import EtcdStore
from billet.store.open import open_store
from billet.store.sqlite import SqliteStore
from tests.etcd_fixture import LocalEtcd
from tests.stores.backends import ME


@pytest.mark.parametrize(
    ("url", "path"), [("sqlite:///billet.db", "data/billet.db"), ("sqlite:////var/b.db", "/var/b.db")]
)
async def test_an_sqlite_path_is_relative_to_the_folder_or_absolute(url: str, path: str) -> None:
    store = open_store(url, "data")
    assert isinstance(store, SqliteStore)
    assert store.path == Path(path)
    await store.close()


@pytest.mark.parametrize("url", ["etcd://h1:2379,h2:2379", "etcds://h1:2379, h2:2379,"])
async def test_an_etcd_url_names_all_endpoints(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, EtcdStore)
    assert store.client.endpoints == ["h1:2379", "h2:2379"]
    await store.close()


@pytest.mark.parametrize("url", ["etcd://[::1]:2379", "etcd://unix:/run/etcd.sock"])
async def test_other_ways_to_name_an_endpoint(url: str) -> None:
    await open_store(url).close()


async def test_a_store_by_url_works(etcd_server: LocalEtcd, tmp_path: Path) -> None:
    for url in ("sqlite:///billet.db", etcd_server.endpoint.replace("http", "etcd")):
        store = open_store(url, str(tmp_path))
        await store.open()
        await store.campaign(ME)
        assert await store.leader() == ME
        await store.close()


WRONG = ["", "billet.db", "sqlite://x.db", "sqlite:///", "sqlite:///folder/", "http://h1:2379"]
WRONG += ["etcd://", "etcd://,", "etcd://h1", "etcd://h1:port", "etcd://:2379", "etcd://h1:99999", "etcd://h1:2379/x"]


@pytest.mark.parametrize("url", WRONG)
def test_another_url_is_a_wrong_setting_and_the_right_forms_are_told(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///.*sqlite:////.*etcd://") as caught:
        open_store(url)
    assert repr(url) in caught.value.text


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("etcd://me:secret@h1:2379")
    assert "secret" not in caught.value.text
