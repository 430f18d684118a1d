"""Calls to a shim: any number at a time over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message

from cutaway.containerd.ttrpc import frames, status
from cutaway.containerd.ttrpc.frames import Frame
from cutaway.errors import DeadlineExceeded, ResourceExhausted, Unavailable, Unknown
from cutaway.pb import ttrpc_pb2
from cutaway.pb.service import Method
from cutaway.trace import context, spans

CLOSED = "ttrpc: closed"


class Client:
    """One connection. `closed` is done once the peer is gone, which for a shim means that it has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._stream = 1
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self.ended = False
        """Whether the peer or we ourselves have closed the connection."""
        self.closed: asyncio.Task[None] = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: str) -> Client:
        """Raises `Unavailable` when nobody listens."""
        try:
            return cls(*await asyncio.open_unix_connection(path))
        except OSError as error:
            raise Unavailable(f"shim at {path}: {error.strerror or error}") from None

    async def call(self, method: Method, request: Message, *, timeout: float | None = None) -> Any:
        """One call; returns a message of the method's response type.

        Raises the class the peer's status stands for, `DeadlineExceeded` after `timeout` seconds, and
        `Unavailable` when the connection ends before the answer.
        """
        with spans.span(f"Task/{method.name}", kind=spans.CLIENT) as span:
            span.set(**{"rpc.system": "ttrpc", "rpc.method": f"{method.service}/{method.name}"})
            answer = await self._exchange(method, request, timeout)
        message = method.response()
        try:
            message.ParseFromString(answer)
        except DecodeError:
            raise Unknown(f"shim's answer to {method.name} cannot be read") from None
        return message

    async def _exchange(self, method: Method, request: Message, timeout: float | None) -> bytes:
        if self.ended:
            raise Unavailable(CLOSED)
        stream, self._stream = self._stream, self._stream + 2
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[stream] = future
        try:
            self._writer.write(frames.pack(Frame(stream, frames.REQUEST, _request(method, request, timeout))))
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise DeadlineExceeded(
                f"shim did not answer {method.name} within {timeout:.3g} s: context deadline exceeded"
            ) from None
        finally:
            self._pending.pop(stream, None)

    async def _read(self) -> None:
        try:
            while frame := await frames.read(self._reader):
                if frame.kind == frames.RESPONSE and (future := self._pending.get(frame.stream)):
                    _resolve(future, frame)
        finally:
            self.close()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(Unavailable(CLOSED))

    def close(self) -> None:
        self.ended = True
        self._writer.close()


def _request(method: Method, request: Message, timeout: float | None) -> bytes:
    envelope = ttrpc_pb2.Request(
        service=method.service,
        method=method.name,
        payload=request.SerializeToString(),
        timeout_nano=int((timeout or 0) * 1e9),
    )
    for key, value in _metadata().items():
        envelope.metadata.add(key=key, value=value)
    return envelope.SerializeToString()


def _metadata() -> Mapping[str, str]:
    current = spans.current()
    return {context.HEADER: current.traceparent} if current else {}


def _resolve(future: asyncio.Future[bytes], frame: Frame) -> None:
    if future.done():
        return
    if frame.oversize:
        future.set_exception(ResourceExhausted(frame.complaint))
        return
    try:
        response = ttrpc_pb2.Response.FromString(frame.payload)
    except DecodeError:
        future.set_exception(Unknown("shim's answer cannot be read"))
        return
    if response.HasField("status") and response.status.code:
        future.set_exception(status.error_of(response.status.code, response.status.message))
    else:
        future.set_result(response.payload)
