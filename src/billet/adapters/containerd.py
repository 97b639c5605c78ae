"""Asks containerd over its gRPC API which images it has unpacked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from billet.core.model import Image
from billet.wire.pb import containerd_pb2 as pb

SERVICES = "containerd.services"
TIMEOUT_S = 5.0
OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.default_authority", "localhost"))
COMMITTED = 3
CHILD = "containerd.io/gc.ref.content"  # label of a blob: a blob that it refers to
SNAPSHOT = "containerd.io/gc.ref.snapshot."  # label of an image's config: its topmost layer in a snapshotter

M = TypeVar("M", bound=Message)


class Containerd:
    """The images in flintlockd's namespace. `volume_ss` and `kernel_ss` name its two snapshotters."""

    def __init__(self, socket: str, volume_ss: str, kernel_ss: str, namespace: str = "flintlock") -> None:
        self._socket = socket
        self._headers = (("containerd-namespace", namespace),)
        self._snapshotters = {False: volume_ss, True: kernel_ss}
        self._channel: grpc.aio.Channel | None = None

    async def unpacked(self) -> frozenset[Image]:
        """The images that a microVM can boot from without a pull. Raises OSError with a one-line text."""
        self._check()
        try:
            images = await self._images()
            blobs = await self._blobs()
            layers = {name: await self._layers(name) for name in set(self._snapshotters.values())}
        except grpc.aio.AioRpcError as error:
            await self.close()  # a new channel next time: an old one waits longer and longer before it reconnects
            raise OSError(f"{self._socket}: {error.code().name}: {error.details()}") from None
        return frozenset(
            Image(name, kernel)
            for name, digest in images.items()
            for kernel, snapshotter in self._snapshotters.items()
            if layers_of(digest, blobs, snapshotter) & layers[snapshotter]
        )

    def _check(self) -> None:
        if not Path(self._socket).is_socket():
            raise OSError(f"{self._socket} {'is not a socket' if Path(self._socket).exists() else 'does not exist'}")

    async def close(self) -> None:
        """Close the connection."""
        if self._channel:
            channel, self._channel = self._channel, None
            await channel.close()

    async def _images(self) -> dict[str, str]:
        """The digest of each image, by its name."""
        ask = self._open().unary_unary(
            f"/{SERVICES}.images.v1.Images/List",
            pb.ListImagesRequest.SerializeToString,
            pb.ListImagesResponse.FromString,
        )
        reply = await ask(pb.ListImagesRequest(), timeout=TIMEOUT_S, metadata=self._headers)
        return {image.name: image.target.digest for image in reply.images}

    async def _blobs(self) -> dict[str, Mapping[str, str]]:
        """The labels of each blob, by its digest."""
        replies = self._stream("content.v1.Content/List", pb.ListContentRequest(), pb.ListContentResponse)
        return {blob.digest: blob.labels async for reply in replies for blob in reply.info}

    async def _layers(self, snapshotter: str) -> set[str]:
        """The layers that a snapshotter has unpacked."""
        request = pb.ListSnapshotsRequest(snapshotter=snapshotter)
        replies = self._stream("snapshots.v1.Snapshots/List", request, pb.ListSnapshotsResponse)
        return {layer.name async for reply in replies for layer in reply.info if layer.kind == COMMITTED}

    async def _stream(self, method: str, request: Message, reply: type[M]) -> AsyncIterator[M]:
        """The messages of a streamed list."""
        ask = self._open().unary_stream(f"/{SERVICES}.{method}", type(request).SerializeToString, reply.FromString)
        async for message in ask(request, timeout=TIMEOUT_S, metadata=self._headers):
            yield message

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix://{self._socket}", OPTIONS)
        return self._channel


def layers_of(digest: str, blobs: Mapping[str, Mapping[str, str]], snapshotter: str) -> set[str]:
    """The topmost layers of an image in a snapshotter, from the labels that containerd puts on blobs.

    Follows an index to its manifests and their configs, so it finds the platform that was unpacked.
    """
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [digest]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        labels = blobs.get(here, {})
        found.update(value for key, value in labels.items() if key == SNAPSHOT + snapshotter)
        waiting.extend(children(labels))
    return found


def children(labels: Mapping[str, str]) -> Iterable[str]:
    """The digests of the blobs that a blob refers to."""
    return (value for key, value in labels.items() if key.startswith(CHILD))
