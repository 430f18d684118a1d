"""What a transfer tells its client while it goes on, on a stream of its own if there is one.

Events and their words are containerd's; `ctr` draws from them. One that is not read holds nothing up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Final

from cutaway.containerd.transfer.streams import Stream
from cutaway.errors import Cancelled
from cutaway.oci.archive.listings import REF_NAME
from cutaway.oci.image_spec import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Descriptor
from cutaway.pb import transfer_types_pb2 as pb
from cutaway.pb.descriptor_pb2 import Descriptor as DescriptorMessage

INTERVAL: Final = 0.3  # seconds between two reports on one blob
PATIENCE: Final = 10.0  # seconds that a client has to read the last ones

_LAYERS: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def is_layer(media_type: str) -> bool:
    return media_type.startswith(_LAYERS)


def key_of(descriptor: Descriptor) -> str:
    """The name of a blob's ingest, and of its line in a client's display."""
    kinds = (("manifest", MANIFEST_TYPES), ("index", INDEX_TYPES), ("config", CONFIG_TYPES))
    found = (name for name, types in kinds if descriptor.media_type in types)
    kind = next(found, "layer" if is_layer(descriptor.media_type) else "unknown")
    name = (descriptor.annotations or {}).get(REF_NAME)
    return f"{kind}-{name}@{descriptor.digest}" if name else f"{kind}-{descriptor.digest}"


class Progress:
    """Events in order, sent by a task of its own."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[pb.Progress | None] = asyncio.Queue()
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Progress:
        if self._stream:
            self._sending = asyncio.create_task(self._send(self._stream))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stream and self._sending:
            self._queue.put_nowait(None)
            try:
                await asyncio.wait([self._sending], timeout=PATIENCE)
            finally:
                self._sending.cancel()
                self._stream.close()

    async def _send(self, stream: Stream) -> None:
        with suppress(Cancelled):
            while (message := await self._queue.get()) is not None:
                await stream.send(message)

    def tell(
        self,
        event: str,
        name: str = "",
        descriptor: Descriptor | None = None,
        *,
        parents: Sequence[str] = (),
        progress: int = 0,
        total: int = 0,
    ) -> None:
        if self._stream is None:
            return
        message = pb.Progress(event=event, name=name, parents=parents, progress=progress, total=total)
        if descriptor is not None:
            message.desc.CopyFrom(
                DescriptorMessage(
                    media_type=descriptor.media_type,
                    digest=descriptor.digest,
                    size=descriptor.size,
                    annotations=descriptor.annotations or {},
                )
            )
        self._queue.put_nowait(message)


class Job:
    """One blob on its way."""

    def __init__(self, progress: Progress, descriptor: Descriptor, parent: str) -> None:
        self._progress = progress
        self._descriptor = descriptor
        self._parents = (parent,)
        self._next = monotonic() + INTERVAL
        self.tell("waiting", 0)

    def tell(self, event: str, done: int | None = None) -> None:
        """`done` bytes of it; all without."""
        size = self._descriptor.size
        self._progress.tell(
            event,
            key_of(self._descriptor),
            self._descriptor,
            parents=self._parents,
            progress=size if done is None else done,
            total=size,
        )

    def moved(self, event: str, done: int) -> None:
        """As `tell`, but not more often than a person can see."""
        if (now := monotonic()) >= self._next:
            self._next = now + INTERVAL
            self.tell(event, done)
