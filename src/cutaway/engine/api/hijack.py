"""Taking a connection out of HTTP's hands for attach and exec: raw bytes in both directions after a 101.

aiohttp ends a connection at the first end of file; a client without stdin sends one right after the 101
and goes on reading (seams.md, trap 2). So the transport gets a protocol of ours before the 101 is
written, and aiohttp's own is told of the connection's end, for its bookkeeping.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from cutaway.engine.stdio.framing import STDOUT, frame
from cutaway.errors import InvalidArgument

RAW: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"
_INPUT_HIGH_WATER: Final = 64 << 10
# A client that does not close its end after the last byte is not waited for longer than this.
_LINGER_SECONDS: Final = 5.0


class Connection(asyncio.Protocol):
    """A hijacked connection; also a `hub.Client` when given streams to deliver."""

    def __init__(self, transport: asyncio.Transport, http: asyncio.BaseProtocol, framed: bool) -> None:
        self._transport = transport
        self._http = http
        self._framed = framed
        self._streams: frozenset[int] = frozenset()
        self._input = bytearray()
        self._eof = False
        self._arrived = asyncio.Event()
        self._paused = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.output_done = asyncio.Event()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._input += data
        self._arrived.set()
        if self.output_done.is_set():
            self._input.clear()  # nobody reads any more
        elif len(self._input) > _INPUT_HIGH_WATER and not self._paused:
            self._transport.pause_reading()
            self._paused = True

    def eof_received(self) -> bool:
        self._eof = True
        self._arrived.set()
        if self.output_done.is_set():
            self._transport.close()
        return True  # only the client's half is closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._arrived.set()
        self.output_done.set()
        if not self.closed.done():
            self.closed.set_result(None)
        self._http.connection_lost(exc)

    # -- input -----------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """What the client has sent since the last call; b"" at its end of file."""
        while not self._input and not self._eof:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._input)
        self._input.clear()
        if self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
            self._paused = False
        return data

    # -- hub.Client ------------------------------------------------------------------------------

    def wants(self, streams: frozenset[int]) -> None:
        """Which output streams the client has asked for."""
        self._streams = streams

    @property
    def backlog(self) -> int:
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def deliver(self, stream: int, data: bytes) -> None:
        if stream in self._streams and not self._transport.is_closing():
            self._transport.write(frame(stream, data) if self._framed else data)

    def write_text(self, text: str) -> None:
        """A message of ours on the stream, as output, where no status can be sent any more."""
        if not self._transport.is_closing():
            self._transport.write(frame(STDOUT, text.encode()) if self._framed else text.encode())

    def finish(self) -> None:
        """No more output: close our half after what is buffered, and wait a little for the client's.

        Closing at once with input unread would make the kernel tell the client of an error (unix(7)).
        """
        if self.output_done.is_set() or self._transport.is_closing():
            return
        self.output_done.set()
        self._transport.write_eof()
        if self._paused:
            self._transport.resume_reading()
        if self._eof:
            self._transport.close()
        else:
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.close)

    def drop(self) -> None:
        self._transport.abort()


class _Tail:
    """Stands in for aiohttp's parser to receive what the client sent right behind its request."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing to do: the connection's own protocol sees it too."""


class Hijacked(web.StreamResponse):
    """What a handler returns when it has taken the connection: there is nothing left to send.

    aiohttp closes the transport when it is done with the answer; that is when both ends are closed.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        await self._connection.closed


def hijack(request: web.Request, *, framed: bool, multiplexed_type: bool) -> Connection:
    """Answer 101 (or 200 to a client that did not ask for an upgrade) and take the connection over.

    `framed`: output is in Docker's 8-byte frames. `multiplexed_type`: say so in the content type, which
    API versions from 1.42 on expect. Raises `InvalidArgument` if the connection is gone.
    """
    transport, http = request.transport, request.protocol
    if transport is None or transport.is_closing():
        raise InvalidArgument("the connection was closed before it could be upgraded")
    tail = _Tail()
    http.set_parser(cast(Any, tail))
    connection = Connection(transport, http, framed)
    transport.set_protocol(connection)
    transport.resume_reading()
    transport.write(_head(request, MULTIPLEXED if framed and multiplexed_type else RAW))
    http.keep_alive(False)
    if tail.data:
        connection.data_received(bytes(tail.data))
    return connection


def _head(request: web.Request, content_type: str) -> bytes:
    if "upgrade" in request.headers:
        lines = [
            "HTTP/1.1 101 UPGRADED",
            f"Content-Type: {content_type}",
            "Connection: Upgrade",
            "Upgrade: tcp",
        ]
    else:
        lines = ["HTTP/1.1 200 OK", f"Content-Type: {content_type}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
