"""The collector's own socket, for programs that cannot wait: EXEC_ROOT/otlp.sock takes `POST /v1/traces`.

A runtime has a container's start waiting for its exit, so it writes its spans and goes, without reading
the reply. On the API's socket that means "the client has gone, cancel its request"; here it means
nothing, and what was sent is read to its end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler


class _Patient(asyncio.Protocol):
    """aiohttp's protocol, which ends a connection when the peer's last byte was read, kept from doing so."""

    def __init__(self, http: RequestHandler) -> None:
        self._http = http

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._http.data_received(data)

    def eof_received(self) -> bool:
        self._http.close()  # once what has arrived is answered
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


def patient(server: Callable[[], RequestHandler]) -> Callable[[], asyncio.Protocol]:
    """A protocol factory over an aiohttp server for senders that do not wait for the reply."""
    return lambda: _Patient(server())


async def serve(runner: web.AppRunner, listener: socket.socket) -> asyncio.Server:
    """Serve an application on a listening socket, patiently."""
    assert runner.server is not None
    return await asyncio.get_running_loop().create_unix_server(patient(runner.server), sock=listener)
