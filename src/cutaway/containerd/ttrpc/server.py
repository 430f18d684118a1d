"""A ttrpc server for unary services, which is what shims hand their events to."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message

from cutaway.containerd.services.errors import as_expected
from cutaway.containerd.ttrpc import frames, status
from cutaway.containerd.ttrpc.frames import Frame
from cutaway.errors import CutawayError, InvalidArgument, ResourceExhausted, Unimplemented
from cutaway.pb import status_pb2, ttrpc_pb2
from cutaway.pb.service import Method

log = logging.getLogger("containerd.ttrpc")

Handler = Callable[[Any, Mapping[str, str]], Awaitable[Message]]
"""Called with the request and the call's metadata."""


class Server:
    """Serves methods on a Unix socket that only root may open.

    Calls on one connection are answered in their order: a shim's events must not overtake one another.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._handlers: dict[tuple[str, str], tuple[Method, Handler]] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    def add(self, method: Method, handler: Handler) -> None:
        self._handlers[method.service, method.name] = method, handler

    async def start(self) -> None:
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._address)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for writer in tuple(self._connections):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while frame := await frames.read(reader):
                if frame.kind == frames.REQUEST:
                    answer = await self._answer(frame)
                    writer.write(frames.pack(Frame(frame.stream, frames.RESPONSE, answer)))
                    await writer.drain()
        except (CutawayError, ConnectionError) as error:
            log.warning("connection on %s ended: %s", self._address, error)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, frame: Frame) -> bytes:
        try:
            if frame.oversize:
                raise ResourceExhausted(frame.complaint)
            return ttrpc_pb2.Response(payload=await self._call(frame.payload)).SerializeToString()
        except Exception as error:
            expected = as_expected(error)
            if expected is not error:
                log.exception("internal error in a ttrpc call")
            refused = status_pb2.Status(code=status.code_of(expected), message=str(expected))
            return ttrpc_pb2.Response(status=refused).SerializeToString()

    async def _call(self, payload: bytes) -> bytes:
        try:
            request = ttrpc_pb2.Request.FromString(payload)
            found = self._handlers.get((request.service, request.method))
            if found is None:
                raise Unimplemented(f"service {request.service}, method {request.method} not implemented")
            method, handler = found
            message = method.request.FromString(request.payload)
        except DecodeError:
            raise InvalidArgument("request cannot be read as protobuf") from None
        response = await handler(message, {pair.key: pair.value for pair in request.metadata})
        return response.SerializeToString()
