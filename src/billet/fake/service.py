"""The MicroVM service: maps protobuf requests to replies, with flintlockd's codes and texts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from ulid import ULID

from billet.core.errors import Code, HostVerdict
from billet.fake.boots import PANIC_EXIT, BootWorker
from billet.fake.disk import Disk
from billet.fake.model import DELETING, Panic, StoredMicroVm, accept, unknown_uid
from billet.wire.flintlock import INVALID
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

M = TypeVar("M", bound=Message)


class MicroVMs:
    """Create, Delete, Get and List. Errors are HostVerdicts. Nothing waits here: boots.py boots."""

    def __init__(
        self,
        default_provider: str,
        records: dict[str, StoredMicroVm],
        disk: Disk,
        boots: BootWorker,
        die: Callable[[int], object],
    ) -> None:
        self._default_provider = default_provider
        self._records = records
        self._disk = disk
        self._boots = boots
        self._die = die
        self.creates_accepted = 0

    def create(self, request: bytes) -> bytes:
        """CreateMicroVM. Never idempotent, never waits for the boot."""
        try:
            record = accept(parse(rpc.CreateMicroVMRequest, request), str(ULID()), self._default_provider)
        except Panic:
            self._die(PANIC_EXIT)
            raise
        record.accepted_s = time.monotonic()
        self._records[record.uid] = record
        self._disk.save(record)
        self.creates_accepted += 1
        self._boots.wake(record.uid)
        return rpc.CreateMicroVMResponse(microvm=record.vm).SerializeToString()

    def delete(self, request: bytes) -> bytes:
        """DeleteMicroVM: marks it; the worker removes it later."""
        uid = _uid(parse(rpc.DeleteMicroVMRequest, request).uid)
        record = self._records.get(uid)
        if record is None:
            raise HostVerdict(Code.UNKNOWN, f"deleting microvm: checking to see if spec exists: {unknown_uid(uid)}")
        record.vm.status.state = DELETING
        record.vm.status.retry = 0
        self._boots.save(record)
        self._boots.wake(uid)
        return b""

    def get(self, request: bytes) -> bytes:
        """GetMicroVM."""
        uid = _uid(parse(rpc.GetMicroVMRequest, request).uid)
        record = self._records.get(uid)
        if record is None:
            where = f"getting microvm: error attempting to locate microvm with uid: {uid}"
            raise HostVerdict(Code.UNKNOWN, f"{where}: {unknown_uid(uid)}")
        return rpc.GetMicroVMResponse(microvm=record.vm).SerializeToString()

    def list_all(self, request: bytes) -> bytes:
        """ListMicroVMs: no namespace means all of them, an empty name means any."""
        query = parse(rpc.ListMicroVMsRequest, request)
        return rpc.ListMicroVMsResponse(microvm=self._find(query.namespace, query.name)).SerializeToString()

    def list_stream(self, request: bytes) -> Iterator[bytes]:
        """ListMicroVMsStream: needs a namespace, ignores the name, ends by itself."""
        query = parse(rpc.ListMicroVMsRequest, request)
        if not query.namespace:
            raise HostVerdict(Code.INVALID_ARGUMENT, INVALID)
        found = [rpc.ListMessage(microvm=vm).SerializeToString() for vm in self._find(query.namespace, "")]
        return iter(found)

    def exists(self, uid: str) -> None:
        """Raise the verdict for an unknown uid."""
        if uid not in self._records:
            raise HostVerdict(Code.UNKNOWN, f"getting microvm: {unknown_uid(uid)}")

    def _find(self, namespace: str, name: str) -> list[types.MicroVM]:
        found = [
            record.vm
            for record in self._records.values()
            if namespace in ("", record.vm.spec.namespace) and name in ("", record.vm.spec.id)
        ]
        random.shuffle(found)  # Go's maps have no order
        return found


def parse(kind: type[M], request: bytes) -> M:
    """Parse a request. Raises grpc-go's verdict for invalid bytes."""
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise HostVerdict(
            Code.INTERNAL, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"
        ) from error


def _uid(uid: str) -> str:
    if not uid:
        raise HostVerdict(Code.INVALID_ARGUMENT, INVALID)
    return uid
