"""A client of the containerd API that says exactly what a test tells it to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

from cutaway.pb import content_pb2, diff_pb2, images_pb2, leases_pb2, mount_pb2, snapshots_pb2
from cutaway.pb.descriptor_pb2 import Descriptor
from cutaway.pb.service import methods

TIMEOUT = 30
STAT, WRITE, COMMIT = content_pb2.STAT, content_pb2.WRITE, content_pb2.COMMIT
CHUNK = 1 << 20
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Client:
    """One connection, one namespace, and a lease if wanted."""

    def __init__(self, address: Path, namespace: str = "test", lease: str = "") -> None:
        self.address = address
        self._channel = grpc.insecure_channel(
            f"unix:{address}",
            # A pool of its own: another's pause between two tries to connect is none of ours.
            options=[("grpc.max_receive_message_length", 16 << 20), ("grpc.use_local_subchannel_pool", 1)],
        )
        self.metadata: list[tuple[str, str]] = [("containerd-namespace", namespace)]
        if lease:
            self.metadata.append(("containerd-lease", lease))

    @classmethod
    def leased(cls, address: Path, namespace: str = "test", lease: str = "held") -> Client:
        """A client under a lease made for it, so that nothing of its is collected in the background."""
        with cls(address, namespace) as plain:
            plain.lease(lease)
        return cls(address, namespace, lease)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, module: ModuleType, rpc: str, request: Any) -> Any:
        """`rpc` is Service/Method; a method that streams answers with an iterator."""
        return self.method(module, rpc)(request, metadata=self.metadata, timeout=TIMEOUT)

    def method(self, module: ModuleType, rpc: str) -> Any:
        """gRPC's own callable for a method."""
        service, name = rpc.split("/")
        method = methods(module.DESCRIPTOR, service)[name]
        kind = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, True): self._channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        return kind(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    # Content.

    def write(self, *messages: content_pb2.WriteContentRequest) -> list[content_pb2.WriteContentResponse]:
        """A whole conversation, each message sent when the last one is answered."""
        return list(self.converse(messages))

    def converse(
        self, messages: Iterable[content_pb2.WriteContentRequest]
    ) -> Iterator[content_pb2.WriteContentResponse]:
        answers = self.call(content_pb2, "Content/Write", iter(messages))
        yield from answers

    def ingest(self, data: bytes, ref: str = "", labels: dict[str, str] | None = None) -> str:
        """Write a blob as a client does that knows what it has."""
        digest = digest_of(data)
        parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        first = content_pb2.WriteContentRequest(
            action=STAT, ref=ref or f"ref-{digest}", total=len(data), expected=digest
        )
        writes = [
            content_pb2.WriteContentRequest(action=WRITE, offset=at * CHUNK, data=part)
            for at, part in enumerate(parts)
        ]
        last = content_pb2.WriteContentRequest(
            action=COMMIT, total=len(data), expected=digest, offset=len(data), labels=labels
        )
        self.write(first, *writes, last)
        return digest

    def read(self, digest: str, offset: int = 0, size: int = 0) -> bytes:
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        return b"".join(part.data for part in self.call(content_pb2, "Content/Read", request))

    def blobs(self, *filters: str) -> list[content_pb2.Info]:
        answers = self.call(content_pb2, "Content/List", content_pb2.ListContentRequest(filters=filters))
        return [info for answer in answers for info in answer.info]

    # Snapshots and layers.

    def prepare(self, key: str, parent: str = "", snapshotter: str = "overlayfs") -> list[mount_pb2.Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent)
        return list(self.call(snapshots_pb2, "Snapshots/Prepare", request).mounts)

    def commit(self, key: str, name: str, snapshotter: str = "overlayfs") -> None:
        request = snapshots_pb2.CommitSnapshotRequest(snapshotter=snapshotter, key=key, name=name)
        self.call(snapshots_pb2, "Snapshots/Commit", request)

    def remove(self, key: str, snapshotter: str = "overlayfs") -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        self.call(snapshots_pb2, "Snapshots/Remove", request)

    def apply(self, digest: str, mounts: Sequence[mount_pb2.Mount], media_type: str = LAYER) -> Descriptor:
        request = diff_pb2.ApplyRequest(diff=Descriptor(digest=digest, media_type=media_type), mounts=mounts)
        applied = self.call(diff_pb2, "Diff/Apply", request).applied
        assert isinstance(applied, Descriptor)
        return applied

    def view(self, key: str, parent: str) -> list[mount_pb2.Mount]:
        request = snapshots_pb2.ViewSnapshotRequest(snapshotter="overlayfs", key=key, parent=parent)
        return list(self.call(snapshots_pb2, "Snapshots/View", request).mounts)

    def diff(
        self, left: Sequence[mount_pb2.Mount], right: Sequence[mount_pb2.Mount], media_type: str = ""
    ) -> Descriptor:
        request = diff_pb2.DiffRequest(left=left, right=right, media_type=media_type)
        made = self.call(diff_pb2, "Diff/Diff", request).diff
        assert isinstance(made, Descriptor)
        return made

    # The rest.

    def lease(self, id: str, **labels: str) -> None:
        self.call(leases_pb2, "Leases/Create", leases_pb2.CreateRequest(id=id, labels=labels))

    def image(self, name: str, digest: str, labels: dict[str, str] | None = None) -> None:
        target = Descriptor(media_type="application/json", digest=digest, size=1)
        image = images_pb2.Image(name=name, target=target, labels=labels)
        self.call(images_pb2, "Images/Create", images_pb2.CreateImageRequest(image=image))

    def collect(self) -> None:
        """Make the daemon collect garbage now: it does when asked to delete an image in sync."""
        data = b"to be collected"
        self.image("collect", digest_of(data))
        self.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name="collect", sync=True))
