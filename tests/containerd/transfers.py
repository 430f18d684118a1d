"""A client of containerd's transfer and streaming services, as core/transfer/proxy of containerd is one."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from containerd.client import Client
from cutaway.pb import images_pb2, leases_pb2, snapshots_pb2, streaming_pb2, transfer_pb2
from cutaway.pb import transfer_types_pb2 as types

MAX_DATA = 32 << 10
WINDOW = 2 * MAX_DATA


def packed(message: Message) -> Any:
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


class Stream:
    """One stream, seen from the client, open when this has been made."""

    def __init__(self, client: Client, name: str = "") -> None:
        self.name = name or f"stream-{uuid.uuid4()}"
        self._out: queue.SimpleQueue[Any | None] = queue.SimpleQueue()
        self._out.put(packed(streaming_pb2.StreamInit(id=self.name)))
        self._call = client.call(streaming_pb2, "Streaming/Stream", iter(self._out.get, None))
        first = next(self._call)
        assert first.type_url == "google.protobuf.Empty"

    def send(self, message: Message) -> None:
        self._out.put(packed(message))

    def end(self) -> None:
        """Nothing more comes from this side."""
        self._out.put(None)

    def cancel(self) -> None:
        self._call.cancel()
        self._out.put(None)

    def __iter__(self) -> Iterator[Any]:
        yield from self._call

    def in_background(self, function: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=function, daemon=True)
        thread.start()
        return thread


@dataclass
class Upload:
    """Sends bytes as it is given leave to."""

    stream: Stream
    data: bytes
    cut: int = -1
    """After so many bytes the client goes away."""
    largest: int = 0
    """What was on its way at most without leave for more."""

    def run(self) -> None:
        sent, allowed = 0, 0
        for message in self.stream:
            assert message.type_url == types.WindowUpdate.DESCRIPTOR.full_name
            allowed += types.WindowUpdate.FromString(message.value).update
            while sent < min(allowed, len(self.data)):
                if 0 <= self.cut <= sent:
                    self.stream.cancel()
                    return
                part = self.data[sent : min(sent + MAX_DATA, allowed)]
                self.stream.send(types.Data(data=part))
                sent += len(part)
            if sent == len(self.data):
                self.stream.end()


@dataclass
class Download:
    """Takes bytes in, giving leave for more each time some have come."""

    stream: Stream
    step: int = WINDOW
    data: bytearray = field(default_factory=bytearray)

    def run(self) -> None:
        self.stream.send(types.WindowUpdate(update=self.step))
        left = self.step
        for message in self.stream:
            part = types.Data.FromString(message.value).data
            assert 0 < len(part) <= left, "more than the window allows"
            self.data += part
            left -= len(part)
            if not left:
                self.stream.send(types.WindowUpdate(update=self.step))
                left = self.step
        self.stream.end()


def transfer(client: Client, source: Message, destination: Message) -> list[types.Progress]:
    """Do a transfer; returns what was told of it."""
    stream, told = Stream(client), list[types.Progress]()
    reading = stream.in_background(
        lambda: told.extend(types.Progress.FromString(one.value) for one in stream)
    )
    options = transfer_pb2.TransferOptions(progress_stream=stream.name)
    request = transfer_pb2.TransferRequest(
        source=packed(source), destination=packed(destination), options=options
    )
    try:
        client.call(transfer_pb2, "Transfer/Transfer", request)
    finally:
        reading.join(10)
        stream.end()
    return told


def import_archive(
    client: Client, archive: bytes, images: types.ImageStore, cut: int = -1, **options: object
) -> list[types.Progress]:
    """Import an archive over a stream."""
    stream = Stream(client)
    sending = stream.in_background(Upload(stream, archive, cut).run)
    source = types.ImageImportStream(stream=stream.name, **options)  # type: ignore[arg-type]
    try:
        return transfer(client, source, images)
    finally:
        stream.cancel()
        sending.join(10)


def export_archive(client: Client, images: types.ImageStore, **options: object) -> bytes:
    """Export images over a stream."""
    stream = Stream(client)
    download = Download(stream)
    reading = stream.in_background(download.run)
    try:
        transfer(client, images, types.ImageExportStream(stream=stream.name, **options))  # type: ignore[arg-type]
        reading.join(10)
    finally:
        stream.cancel()
    return bytes(download.data)


def prefix(name: str, **options: bool) -> types.ImageReference:
    """Names for what an archive brings."""
    return types.ImageReference(name=name, is_prefix=True, **options)


def images_of(client: Client) -> dict[str, images_pb2.Image]:
    found = client.call(images_pb2, "Images/List", images_pb2.ListImagesRequest()).images
    return {image.name: image for image in found}


def snapshots_of(client: Client) -> set[str]:
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs")
    return {one.name for part in client.call(snapshots_pb2, "Snapshots/List", request) for one in part.info}


def refused(code: grpc.StatusCode, text: str, function: Callable[[], object]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        function()
    assert (caught.value.code(), text in caught.value.details()) == (code, True), caught.value.details()


def nothing_is_left(client: Client) -> None:
    """No image, and after a collection no blob, ingest, lease or snapshot."""
    assert images_of(client) == {}
    client.collect()
    assert (client.blobs(), snapshots_of(client)) == ([], set())
    assert not client.call(leases_pb2, "Leases/List", leases_pb2.ListRequest()).leases
