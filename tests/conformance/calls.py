"""A Flintlock client as the checks need it: sync, Go's 4 MiB limit, every call with a generous deadline."""

from __future__ import annotations

import itertools
import json
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest

from billet.wire import flintlock as wire
from billet.wire.auth import basic_header
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

DEADLINE_S = 60.0
PENDING, CREATED = types.MicroVMStatus.PENDING, types.MicroVMStatus.CREATED
FAILED, DELETING = types.MicroVMStatus.FAILED, types.MicroVMStatus.DELETING
TAP, MACVTAP = types.NetworkInterface.TAP, types.NetworkInterface.MACVTAP
GONE = "not found"

_names = itertools.count()


class Client:
    """One connection. Each method returns the reply's interesting part, or raises grpc.RpcError."""

    def __init__(
        self,
        address: str,
        token: str = "",
        authorization: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        options: list[tuple[str, Any]] | None = None,
    ) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), *(options or [])]
        if credentials:
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        header = basic_header(token) if token else authorization
        self.metadata = [("authorization", header)] if header else []

    def call(self, method: str, request: bytes, **more: Any) -> bytes:
        return self.channel.unary_unary(method)(request, timeout=DEADLINE_S, metadata=self.metadata, **more)

    def create(self, spec: types.MicroVMSpec) -> types.MicroVM:
        request = rpc.CreateMicroVMRequest(microvm=spec).SerializeToString()
        return rpc.CreateMicroVMResponse.FromString(self.call(wire.CREATE, request)).microvm

    def get(self, uid: str) -> types.MicroVM:
        request = rpc.GetMicroVMRequest(uid=uid).SerializeToString()
        return rpc.GetMicroVMResponse.FromString(self.call(wire.GET, request)).microvm

    def delete(self, uid: str) -> bytes:
        return self.call(wire.DELETE, rpc.DeleteMicroVMRequest(uid=uid).SerializeToString())

    def list(self, namespace: str = "", name: str | None = None) -> list[types.MicroVM]:
        request = rpc.ListMicroVMsRequest(namespace=namespace, name=name).SerializeToString()
        return [*rpc.ListMicroVMsResponse.FromString(self.call(wire.LIST, request)).microvm]

    def stream(self, namespace: str = "", name: str | None = None) -> list[types.MicroVM]:
        request = rpc.ListMicroVMsRequest(namespace=namespace, name=name).SerializeToString()
        replies = self.channel.unary_stream(wire.LIST_STREAM)(request, timeout=DEADLINE_S, metadata=self.metadata)
        return [rpc.ListMessage.FromString(reply).microvm for reply in replies]

    def close(self) -> None:
        self.channel.close()


class Refusal(NamedTuple):
    code: grpc.StatusCode
    text: str


def refused(call: Callable[..., object], *args: Any, **more: Any) -> Refusal:
    """The status of a call that must not succeed."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **more)
    return Refusal(caught.value.code(), caught.value.details())


def attempt(call: Callable[..., Any], *args: Any) -> Any:
    """The result of a call that may succeed, or its Refusal."""
    try:
        return call(*args)
    except grpc.RpcError as error:
        return Refusal(error.code(), error.details())


def spec(name: str = "", namespace: str = "ns", **changes: Any) -> types.MicroVMSpec:
    """A microVM that every host takes; each call has a name of its own."""
    made = types.MicroVMSpec(
        id=name or f"vm{next(_names)}",
        namespace=namespace,
        vcpu=1,
        memory_in_mb=1024,
        kernel=types.Kernel(image="registry.example/kernel:5.10", filename="boot/vmlinux"),
        root_volume=types.Volume(id="root", source=types.VolumeSource(container_source="registry.example/os:22.04")),
        interfaces=[types.NetworkInterface(device_id="eth1", type=TAP)],
    )
    for field, value in changes.items():
        made.ClearField(field)
        made.MergeFrom(types.MicroVMSpec(**{field: value}))
    return made


def http(at: str, verb: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of one HTTP call to this "host:port"; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"http://{at}{path}", data, headers, method=verb)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def plain(value: str) -> str:
    return b64decode(value).decode()


def eventually(true: Callable[[], Any], bound_s: float = 120.0) -> Any:
    """The first true value of this; the bound is only there to end a failing test."""
    deadline_s = time.monotonic() + bound_s
    while not (value := true()):
        assert time.monotonic() < deadline_s, f"not within {bound_s} s"
        time.sleep(0.02)
    return value
