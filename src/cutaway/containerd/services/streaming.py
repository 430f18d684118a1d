"""containerd.services.streaming.v1.Streaming: streams that transfers find by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.server import NAMESPACE, Call, Service
from cutaway.containerd.transfer.streams import packed, unpacked
from cutaway.errors import InvalidArgument, Unknown
from cutaway.pb import streaming_pb2 as pb


class Streaming(Service):
    file = pb.DESCRIPTOR
    name = "Streaming"

    def __init__(self, app: App) -> None:
        self._streams = app.streams

    async def stream(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        first = await anext(requests, None)
        if first is None:
            raise Unknown("EOF")
        init = unpacked(first, pb.StreamInit)
        if init is None:
            raise InvalidArgument(f"first message must be {pb.StreamInit.DESCRIPTOR.full_name}")
        namespace = call.metadata(NAMESPACE)
        stream = self._streams.register(namespace, init.id)
        feeding: asyncio.Task[None] | None = None
        try:
            yield packed(Empty())  # it can be named now
            feeding = asyncio.create_task(stream.feed(requests))
            async with aclosing(stream.outgoing()) as messages:  # type: ignore[type-var]
                async for message in messages:
                    yield message
        finally:
            self._streams.forget(namespace, init.id)
            if feeding:
                feeding.cancel()
