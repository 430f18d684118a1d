"""A client for one call at a time, for what has to arrive in order."""

import socket

from cutaway.pb.ttrpc_pb2 import Request, Response
from cutaway.shim.ttrpc.connection import Connection
from cutaway.shim.ttrpc.frame import REQUEST, RESPONSE, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.shim.loop import Loop, Timer

    Done = Callable[[Response | None], None]


class Client:
    """Connects when there is something to send. Never blocks: connecting to a Unix socket does not."""

    def __init__(self, loop: "Loop", path: str) -> None:
        self._loop = loop
        self._path = path
        self._connection: Connection | None = None
        self._stream = 1
        self._done: Done | None = None
        self._timer: Timer | None = None

    @property
    def busy(self) -> bool:
        return self._done is not None

    def call(self, request: Request, seconds: float, done: "Done") -> None:
        """Send, and call back with the reply, or with None if the peer cannot be asked now.

        Raises OSError when nobody listens.
        """
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        request.timeout_nano = int(seconds * 1e9)
        self._done = done
        self._timer = self._loop.later(seconds, self._connection.close)
        self._connection.send(Frame(self._stream, REQUEST, request.SerializeToString()))
        self._stream += 2

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        self._stream = 1
        self._connection = Connection(self._loop, connection.detach(), self._frame, self._closed)

    def _frame(self, frame: Frame) -> None:
        if frame.kind == RESPONSE and frame.stream == self._stream - 2:
            self._finish(Response.FromString(frame.payload))

    def _closed(self) -> None:
        self._connection = None
        self._finish(None)

    def _finish(self, response: Response | None) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
        if done is not None:
            done(response)
