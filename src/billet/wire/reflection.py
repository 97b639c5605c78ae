"""gRPC reflection under both names, v1 and v1alpha, which have the same messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHODS = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)

if TYPE_CHECKING:  # at run time grpc's classes take no parameters
    Handler = grpc.RpcMethodHandler[Any, Any]


def reflection_handler(services: Sequence[str]) -> Handler:
    """The handler of the reflection method, which lists these services and itself."""
    return grpc.stream_stream_rpc_method_handler(
        ReflectionServicer([*services, *SERVICES]).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
