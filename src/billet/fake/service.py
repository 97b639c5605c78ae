"""The MicroVM service: maps protobuf requests to replies, with flintlockd's codes and texts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from ulid import ULID

from billet.core.errors import Code, HostVerdict
from billet.fake import names
from billet.fake.boots import PANIC_EXIT, BootWorker
from billet.fake.disk import Disk
from billet.fake.faults import Faults
from billet.fake.model import DELETING, Panic, StoredMicroVm, accept, unknown_uid
from billet.fake.settings import FakeConfig
from billet.fake.trouble import containerd_error
from billet.wire.flintlock import CREATE, DELETE, GET, INVALID, LIST
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

M = TypeVar("M", bound=Message)


class MicroVMs:
    """Create, Delete, Get and List. Errors are HostVerdicts. Nothing waits here: boots.py boots."""

    def __init__(
        self,
        config: FakeConfig,
        records: dict[str, StoredMicroVm],
        disk: Disk,
        boots: BootWorker,
        faults: Faults,
        die: Callable[[int], object],
    ) -> None:
        self._default_provider = config.default_provider
        self._create_mean_s = config.create_mean_s
        self._records = records
        self._disk = disk
        self._boots = boots
        self._faults = faults
        self._die = die
        self.creates_accepted = 0
        self.spinning: set[str] = set()  # uids for which flintlockd would spin: a second Delete came too early

    def create(self, request: bytes, heard: bool = True) -> bytes:
        """CreateMicroVM. Never idempotent, never waits for the boot. Not `heard`: it boots at the next resync."""
        try:
            record = accept(parse(rpc.CreateMicroVMRequest, request), str(ULID()), self._default_provider)
        except Panic:
            self._die(PANIC_EXIT)
            raise
        self._ask_containerd(CREATE)
        record.accepted_s = time.monotonic()
        self._records[record.uid] = record
        self._disk.save(record)
        self.creates_accepted += 1
        if heard:
            self._boots.wake(record.uid)
        return record.reply()

    def create_delay_s(self) -> float:
        """How long the next create takes."""
        return self._boots.draw_s(self._create_mean_s)

    def delete(self, request: bytes) -> bytes:
        """DeleteMicroVM: marks it; the worker removes it later."""
        uid = _uid(parse(rpc.DeleteMicroVMRequest, request).uid)
        self._ask_containerd(DELETE)
        record = self._records.get(uid)
        if record is None:
            raise HostVerdict(Code.UNKNOWN, f"deleting microvm: checking to see if spec exists: {unknown_uid(uid)}")
        _readable([record.vm], "deleting microvm: checking to see if spec exists: getting vm spec from store")
        if record.vm.status.state == DELETING:
            self.spinning.add(uid)
        record.vm.status.state = DELETING
        record.vm.status.retry = 0
        self._boots.save(record)
        self._boots.wake(uid)
        return b""

    def get(self, request: bytes) -> bytes:
        """GetMicroVM."""
        uid = _uid(parse(rpc.GetMicroVMRequest, request).uid)
        self._ask_containerd(GET)
        record = self._records.get(uid)
        if record is None:
            where = f"getting microvm: error attempting to locate microvm with uid: {uid}"
            raise HostVerdict(Code.UNKNOWN, f"{where}: {unknown_uid(uid)}")
        _readable([record.vm], f"getting microvm: error attempting to locate microvm with uid: {uid}")
        return record.reply()

    def list_all(self, request: bytes) -> bytes:
        """ListMicroVMs: no namespace means all of them, an empty name means any."""
        query = parse(rpc.ListMicroVMsRequest, request)
        return b"".join(record.reply() for record in self._find(query.namespace, query.name))

    def list_stream(self, request: bytes) -> Iterator[bytes]:
        """ListMicroVMsStream: needs a namespace, ignores the name, ends by itself."""
        query = parse(rpc.ListMicroVMsRequest, request)
        if not query.namespace:
            raise HostVerdict(Code.INVALID_ARGUMENT, INVALID)
        return iter([record.reply() for record in self._find(query.namespace, "")])

    def exists(self, uid: str) -> None:
        """Raise the verdict for an unknown uid."""
        if uid not in self._records:
            raise HostVerdict(Code.UNKNOWN, f"getting microvm: {unknown_uid(uid)}")

    def _ask_containerd(self, method: str) -> None:
        if text := containerd_error(self._faults, method):
            raise HostVerdict(Code.UNKNOWN, text)

    def _find(self, namespace: str, name: str) -> list[StoredMicroVm]:
        self._ask_containerd(LIST)
        found = [
            record
            for record in self._records.values()
            if namespace in ("", record.vm.spec.namespace) and name in ("", record.vm.spec.id)
        ]
        doing = "getting all microvms: error attempting to list microvms: getting microvm spec"
        _readable([record.vm for record in found], doing)
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


def _readable(vms: Iterable[types.MicroVM], doing: str) -> None:
    for vm in vms:
        if names.is_unreadable(vm.spec):
            raise HostVerdict(Code.UNKNOWN, f"{doing}: {names.unreadable(vm.spec)}")


def _uid(uid: str) -> str:
    if not uid:
        raise HostVerdict(Code.INVALID_ARGUMENT, INVALID)
    return uid
