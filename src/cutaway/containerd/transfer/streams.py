"""Streams by name: a client opens one, and names it in the transfer that is to use it.

The call that carries a stream waits until the service closes its end; messages in both directions go
through short queues, so that neither side can make the other hold more than a few.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from cutaway.errors import AlreadyExists, Cancelled, InvalidArgument, NotFound

M = TypeVar("M", bound=Message)

QUEUED = 4  # messages


def packed(message: Message) -> Any:
    """A message with its type's bare name, as containerd writes it."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def unpacked(value: Any, kind: type[M]) -> M | None:
    """The message in it if it is of a type, otherwise None. Raises `InvalidArgument` for damaged bytes."""
    if value.type_url.rpartition("/")[2] != kind.DESCRIPTOR.full_name:
        return None
    try:
        return kind.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument(f"{value.type_url}: {error}") from None


class _Pipe:
    """A short queue that either side may end."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._broken = False

    async def put(self, item: Any) -> None:
        while len(self._items) >= QUEUED and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._ended:
            raise Cancelled("stream was closed")
        self._items.append(item)
        self._changed.set()

    async def get(self) -> Any | None:
        """The next one; None after the last. Raises `Cancelled` if it did not end but break."""
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._items:
            item = self._items.popleft()
            self._changed.set()
            return item
        if self._broken:
            raise Cancelled("stream was cancelled by the client")
        return None

    def end(self, *, broken: bool = False) -> None:
        if not self._ended:
            self._ended, self._broken = True, broken
            self._changed.set()


class Stream:
    """One stream, seen from the service. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._in = _Pipe()
        self._out = _Pipe()

    async def receive(self) -> Any | None:
        """What the client sends next; None when it has sent all. Raises `Cancelled` when it is gone."""
        return await self._in.get()

    async def send(self, message: Message) -> None:
        """Raises `Cancelled` when the client is gone."""
        await self._out.put(packed(message))

    def close(self) -> None:
        """The service's end: what was sent is still delivered, then the call returns."""
        self._in.end()
        self._out.end()

    # The call that carries it.

    async def feed(self, requests: AsyncIterator[Any]) -> None:
        """Take in what the client sends, as fast as it is used."""
        try:
            async for message in requests:
                await self._in.put(message)
        except Cancelled:
            return  # closed by the service
        except Exception:  # noqa: BLE001 (gRPC's own, of a connection that broke)
            self._in.end(broken=True)
        self._in.end()

    async def outgoing(self) -> AsyncIterator[Any]:
        """What goes to the client, until the service closes the stream."""
        while (message := await self._out.get()) is not None:
            yield message

    def abandon(self) -> None:
        """The client has left."""
        self._in.end(broken=True)
        self._out.end()


class Streams:
    """The streams of all namespaces."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Stream] = {}

    def register(self, namespace: str, name: str) -> Stream:
        """Raises `AlreadyExists`."""
        if (namespace, name) in self._open:
            raise AlreadyExists("already exists")
        self._open[namespace, name] = made = Stream()
        return made

    def get(self, namespace: str, name: str) -> Stream:
        """Raises `NotFound`."""
        try:
            return self._open[namespace, name]
        except KeyError:
            raise NotFound("not found") from None

    def forget(self, namespace: str, name: str) -> None:
        self._open.pop((namespace, name)).abandon()

    def close(self) -> None:
        """End all of them: the daemon stops."""
        for stream in self._open.values():
            stream.close()
