"""Every parser that meets bytes from outside, what it is given, and the errors that it may raise.

A check raises whatever the parser should not: an exception of another kind is a crash. What the bytes of clients,
hosts, files and the store become is used as far as the next steps do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from billet.api import audit_facts
from billet.api import fleet_service as fleet
from billet.commands.spec import parse_spec
from billet.core.errors import BilletError, ConfigError, InvalidRequest, StoreCorrupt
from billet.link import bid_messages, hello, messages
from billet.ports import Answer
from billet.store import backup, records
from billet.whatif import workload
from billet.wire import auction_records, auth, flintlock, gateway, headers, metadata, newer
from billet.wire.pb import fleet_pb2 as fleet_pb
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.pb import link_pb2 as link
from tests.fuzz.inputs import changed, documents, names_of, texts
from tests.fuzz.inputs import messages as any_message

STORED = Path(__file__).parent.parent / "upgrade"
SPEC = {
    "id": "web", "namespace": "demo", "vcpu": 2, "memoryInMb": 2048, "labels": {"billet.io/zone": "a"},
    "metadata": {"user-data": "aGk="}, "kernel": {"image": "r.example/k:1", "filename": "vmlinux"},
    "rootVolume": {"id": "root", "source": {"containerSource": "r.example/o:1"}, "sizeInMb": 10},
    "interfaces": [{"deviceId": "eth1", "type": "TAP", "address": {"address": "10.0.0.2/24"}}],
}  # fmt: skip
JSON_SPEC = json.dumps(SPEC).encode()
CREATE = gateway.create_request(JSON_SPEC)
REPLY = flintlock.with_token(CREATE, "a-1")
LABELS = [f"billet.io/{name}" for name in ("zone", "apart", "spread", "near", "priority", "request-id", "policy")]
QUESTIONS = fleet_pb.PlacementsRequest, fleet_pb.ExplainRequest, fleet_pb.RecordsRequest, fleet_pb.ChangeHostRequest
READERS = (
    flintlock.read_created, flintlock.read_list, flintlock.without_token, newer.version_of, flintlock.read_images,
)  # fmt: skip


class Target(NamedTuple):
    """One parser."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], object]


def as_bytes(kind: type[Any], *samples: bytes) -> st.SearchStrategy[bytes]:
    """A message of this kind, or changed samples of one."""
    some = samples or (kind().SerializeToString(),)
    return any_message(kind).map(lambda message: message.SerializeToString()) | changed(some)


# What clients send.


def check_json(body: bytes) -> None:
    """The HTTP gateway: a body becomes a request, and the request is read as one from gRPC."""
    with suppress(InvalidRequest):
        check_create(gateway.create_request(body))
    with suppress(InvalidRequest):
        flintlock.read_namespace(gateway.stream_request(body))


def check_create(request: bytes) -> None:
    """A CreateMicroVMRequest, up to the auction, and the audit log's look at it."""
    with suppress(BilletError):
        flintlock.read_create(request, "a-1", "zone")
    with suppress(BilletError):
        headers.token_of(request, {headers.REQUEST_ID: ""}, lambda: "new")
    with suppress(BilletError):
        flintlock.refuse_too_long(request, "a-1")
    audit_facts.asked(flintlock.CREATE, request)


def check_fleet(given: tuple[str, bytes]) -> None:
    """Requests of Billet's own service, and uids."""
    method, request = given
    audit_facts.what(method, request)
    audit_facts.asked(method, request)
    for kind in (
        fleet_pb.PlacementsRequest,
        fleet_pb.ExplainRequest,
        fleet_pb.RecordsRequest,
        fleet_pb.ChangeHostRequest,
    ):
        with suppress(InvalidRequest):
            flintlock.parse(kind, request)
    for read in (flintlock.read_uid, flintlock.read_namespace):
        with suppress(InvalidRequest):
            read(request)


def check_stream(given: tuple[str, bytes]) -> None:
    """The first message of a stream."""
    with suppress(InvalidRequest):
        newer.stream_uid(*given)


def check_headers(pairs: list[tuple[str, str | bytes]]) -> None:
    """Metadata, as it came from a client, a server or a host."""
    own = {key: value for key, value in pairs if isinstance(value, str)}
    with suppress(InvalidRequest):
        metadata.from_client(metadata.CallMetadata(own, tuple(pairs)))
    for key, value in metadata.from_host(pairs):
        assert metadata.is_binary(key) == isinstance(value, bytes)
    with suppress(InvalidRequest):
        headers.token_of(CREATE, own, lambda: "new")
    auth.check_basic(own.get("authorization"), "token")
    answer = Answer(b"", tuple((key, value) for key, value in pairs if isinstance(value, str)))
    audit_facts.told(flintlock.CREATE, answer)


# What hosts send.


def check_reply(reply: bytes) -> None:
    """flintlockd's replies."""
    for read in (
        flintlock.read_created,
        flintlock.read_list,
        flintlock.without_token,
        newer.version_of,
        flintlock.read_images,
    ):
        with suppress(InvalidRequest):
            read(reply)
    with suppress(InvalidRequest, DecodeError):
        flintlock.deleting_in(reply, {"01H"})
    with suppress(InvalidRequest):
        list(flintlock.split_list(reply))


def check_up(data: bytes) -> None:
    """What an agent sends: the link closes at DecodeError and ValueError, and ignores or answers the rest."""
    with suppress(DecodeError):
        up = link.Up.FromString(data)
        with suppress(ValueError):
            hello.get_claim(up.hello, b"nonce", "10.0.0.1:1", None)
        with suppress(ValueError):
            messages.get_report(up.report)
        with suppress(ValueError):
            messages.get_inventory(up.inventory)
        for answer in up.answers:
            messages.get_outcome("h1", answer)
        for bids in up.bids:
            with suppress(ValueError):
                bid_messages.get_bids("h1", bids)


def check_down(data: bytes) -> None:
    """What a server sends to an agent."""
    with suppress(DecodeError):
        down = link.Down.FromString(data)
        for call in down.calls:
            with suppress(ValueError):
                bid_messages.get_call(call)
        messages.get_weights(down.welcome)
        for order in down.orders:
            messages.get_metadata(order.metadata)
            with suppress(InvalidRequest):
                flintlock.with_token(order.payload, "a-1")
            check_create(order.payload)


# What is on disk, and what people write.


def check_auction(data: bytes) -> None:
    """Auction records, ends of microVMs, outcomes."""
    for read in (auction_records.decode, auction_records.decode_gone, auction_records.readable):
        with suppress(StoreCorrupt):
            read(data)
    auction_records.decode_outcomes([data])


def check_record(given: tuple[str, bytes]) -> None:
    """The store's records."""
    with suppress(StoreCorrupt):
        records.decode(*given)
    with suppress(StoreCorrupt):
        records.read_leader(given[1])


def check_backup(data: bytes) -> None:
    """A backup file."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "backup")
        path.write_bytes(data)
        with suppress(ConfigError, StoreCorrupt):
            backup.read(path)


def check_workload(data: bytes) -> None:
    """A CSV or JSON file of `billet simulate`."""
    for name in ("w.csv", "w.json"):
        with TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(data)
            with suppress(ConfigError):
                workload.read(path)


def check_spec(data: bytes) -> None:
    """A spec of `billet create -f`."""
    with suppress(InvalidRequest):
        parse_spec(data.decode(errors="replace"), "spec.yaml")


def stored(pattern: str) -> list[bytes]:
    """What earlier versions have written."""
    return [path.read_bytes() for path in sorted(STORED.glob(f"*/{pattern}"))]


def signed(text: bytes) -> bytes:
    """A changed backup with the right checksum: else nobody would look into it."""
    lines = text.splitlines(keepends=True)[:-1]
    return b"".join(lines) + json.dumps({"sha256": hashlib.sha256(b"".join(lines)).hexdigest()}).encode()


def rows() -> st.SearchStrategy[bytes]:
    """CSV with columns that are known, and any cells."""
    columns = ["op", *workload.CSV_COLUMNS, "x"]
    cells = texts | st.sampled_from(
        ["host", "create", "delete", "mark", "h1", "1", "2048", "-1", "1e99", "nan", "a=b"]
    )

    def written(table: list[list[str]]) -> bytes:
        out = io.StringIO()
        csv.writer(out).writerows(table)
        return out.getvalue().encode(errors="replace")

    heads = st.lists(st.sampled_from(columns), min_size=1, max_size=8)
    return st.builds(
        lambda head, rest: written([head, *rest]), heads, st.lists(st.lists(cells, max_size=8), max_size=5)
    )


PAIRS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([*headers.INTERNAL, headers.REQUEST_ID, headers.ABOUT, "authorization", "x-own"]) | texts,
            texts,
        ),
        st.tuples(st.just(headers.ABOUT), documents(["host", "uid", "name"]).map(bytes.decode)),
        st.tuples(st.just("authorization"), texts.map(lambda text: f"Basic {text}")),
        st.tuples(st.just("x-own-bin"), st.binary(max_size=40)),
    ),
    max_size=8,
)
WORKLOADS = [
    b"op,name,vcpu,memory_mib,disk_mib,vms,zone,labels\nhost,h1,8,16384,1000,9,a,disk=nvme\n"
    b"create,a,1,1024,0,1,,billet.io/zone=a\ndelete,a\n",
    b"op;name;vcpu;memory_mib\nhost;h1;8;16384\ncreate;a;1;1024\n",
    b'{"hosts": [{"name": "h1", "vcpu": 8, "memory_mib": 9999}], "events": [{"op": "create", "vm": "a", "vcpu": 1}]}',
]

TARGETS = {
    "json": Target(changed([JSON_SPEC, b"{}"]) | documents([*names_of(types.MicroVMSpec), *LABELS]), check_json),
    "create": Target(as_bytes(rpc.CreateMicroVMRequest, CREATE), check_create),
    "fleet": Target(
        st.tuples(
            st.sampled_from([fleet.CHANGE_HOST, flintlock.DELETE, flintlock.GET, flintlock.CREATE, "/x"]),
            as_bytes(fleet_pb.ChangeHostRequest, fleet_pb.ChangeHostRequest(host="h1", verb=1).SerializeToString()),
        ),
        check_fleet,
    ),
    "stream": Target(
        st.tuples(
            st.sampled_from([newer.EXEC, newer.SSH, "/x"]),
            changed([flintlock.field(1, flintlock.field(1, b"01ARZ3NDEKTSV4RRFFQ69G5FAV"))]),
        ),
        check_stream,
    ),
    "headers": Target(PAIRS, check_headers),
    "reply": Target(as_bytes(rpc.ListMicroVMsResponse, REPLY), check_reply),
    "up": Target(as_bytes(link.Up, *stored("up-*.bin")), check_up),
    "down": Target(as_bytes(link.Down, *stored("down-*.bin")), check_down),
    "auction": Target(changed(stored("*.json")) | documents(["v", "layout", "auction", "attempts"]), check_auction),
    "record": Target(
        st.tuples(
            st.sampled_from([records.HOSTS, records.PLACEMENTS, records.CREDENTIALS, records.RESTORING, "x"]),
            changed([b'{"v":1}', *stored("leader.json"), *stored("records.jsonl")[0].splitlines()])
            | documents(["v", "id", "capacity", "demand", "state", "vcpu", "labels", "role"]),
        ),
        check_record,
    ),
    "backup": Target(
        changed(stored("backup.jsonl")) | changed(stored("backup.jsonl")).map(signed), check_backup
    ),
    "workload": Target(changed(WORKLOADS) | rows(), check_workload),
    "spec": Target(changed([JSON_SPEC, b"id: web\nvcpu: 2\nmetadata_text: {user-data: hi}\n"]), check_spec),
}  # fmt: skip
