"""A server that only commits, to be killed: prints the number of every placement once its commit was acknowledged."""

import asyncio
import itertools
import sys

from billet.core.state import PutPlacement
from billet.ports import Store
from billet.store.etcd import EtcdStore
from billet.store.sqlite import SqliteStore
from tests.stores.backends import ME, placement

ABREAST = 20


async def main(kind: str, where: str, prefix: str = "", lease_ttl_s: str = "3") -> None:
    store: Store = SqliteStore(where)
    if kind == "etcd":
        store = EtcdStore([where], prefix=prefix, lease_ttl_s=int(lease_ttl_s))
    await store.open()
    term = await store.campaign(ME)
    numbers = itertools.count()

    async def commit_for_ever() -> None:
        for n in numbers:
            await store.commit(term, [PutPlacement(placement(n))])
            print(n, flush=True)

    await asyncio.gather(*(commit_for_ever() for _ in range(ABREAST)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
