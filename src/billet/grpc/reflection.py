"""gRPC's reflection service under both names, v1 and v1alpha, which have the same messages.

It answers as grpc-go does: with every file that the one asked for imports, each once per call; with `json_name` in
every field, on which the JSON of grpcurl depends; and a method's full name is found too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2 as pb

from billet.core.errors import Code
from billet.grpc.interface import ServerCall
from billet.grpc.status import RpcError

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHODS = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)
_NO_SUCH = 5  # gRPC's NOT_FOUND


class Reflection:
    """Describes these services, and itself. `hidden`: full names of methods that this server lacks."""

    def __init__(self, services: Sequence[str], hidden: Collection[str] = ()) -> None:
        self._services = sorted([*services, *SERVICES])
        self._hidden = frozenset(hidden)
        self._pool = descriptor_pool.Default()
        self.streams = dict.fromkeys(METHODS, self.answer)

    async def answer(self, call: ServerCall) -> None:
        """Answer one call, which may ask many questions."""
        sent: set[str] = set()
        while (message := await call.read()) is not None:
            try:
                request = pb.ServerReflectionRequest.FromString(message)
            except DecodeError as error:
                raise RpcError(Code.INTERNAL, "malformed ServerReflectionRequest") from error
            reply = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._fill(reply, request, sent)
            except KeyError as error:
                reply.error_response.error_code = _NO_SUCH
                reply.error_response.error_message = str(error.args[0])
            await call.write(reply.SerializeToString())

    def _fill(self, reply: pb.ServerReflectionResponse, request: pb.ServerReflectionRequest, sent: set[str]) -> None:
        """Answer one question. Raises KeyError for what is not known."""
        match request.WhichOneof("message_request"):
            case "list_services":
                reply.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in self._services)
            case "file_by_filename":
                file = self._pool.FindFileByName(request.file_by_filename)
                self._add(reply, file, sent)
            case "file_containing_symbol":
                self._add(reply, self._file_of(request.file_containing_symbol), sent)
            case "file_containing_extension" | "all_extension_numbers_of_type" as asked:
                raise KeyError(f"{asked}: Flintlock's messages have no extensions")
            case _:
                raise RpcError(Code.INVALID_ARGUMENT, "the request asks for nothing")

    def _file_of(self, symbol: str) -> FileDescriptor:
        """The file that defines a message, field, enum, service or method, by its full name. Raises KeyError."""
        if symbol in self._hidden:
            raise KeyError(f"symbol {symbol} is not here")
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            owner, _, name = symbol.rpartition(".")
            service = self._pool.FindServiceByName(owner)
            if name not in service.methods_by_name:
                raise
            return service.file

    def _add(self, reply: pb.ServerReflectionResponse, file: FileDescriptor, sent: set[str]) -> None:
        reply.file_descriptor_response.file_descriptor_proto.extend(
            self._described(each).SerializeToString() for each in _with_imports(file, sent)
        )

    def _described(self, file: FileDescriptor) -> FileDescriptorProto:
        described = FileDescriptorProto()
        file.CopyToProto(described)
        for service in described.service:
            for at in reversed(range(len(service.method))):
                if f"{described.package}.{service.name}.{service.method[at].name}" in self._hidden:
                    del service.method[at]
        for message in described.message_type:
            _name_in_json(message, file.message_types_by_name[message.name])
        return described


def _with_imports(file: FileDescriptor, sent: set[str]) -> Iterator[FileDescriptor]:
    if file.name in sent:
        return
    sent.add(file.name)
    yield file
    for imported in file.dependencies:
        yield from _with_imports(imported, sent)


def _name_in_json(message: DescriptorProto, descriptor: Descriptor) -> None:
    """Fill in the fields' names in JSON, which protobuf leaves out of what it describes."""
    for field in message.field:
        field.json_name = descriptor.fields_by_name[field.name].json_name
    for nested in message.nested_type:
        _name_in_json(nested, descriptor.nested_types_by_name[nested.name])
