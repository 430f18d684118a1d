"""The server: calls run concurrently as coroutines, in the order in which they arrived.

A call that waits (Wait, or Delete for the last output) does not hold up another. A deadline that
passes, or a client that goes away, ends a call that only waits; one that does something goes on
to its end, so that nothing is left half done: only its reply is lost.
"""

import socket

from cutaway import errors
from cutaway.pb.status_pb2 import Status
from cutaway.pb.ttrpc_pb2 import Request, Response
from cutaway.shim import log
from cutaway.shim.loop import READ
from cutaway.shim.ttrpc import status
from cutaway.shim.ttrpc.connection import Connection
from cutaway.shim.ttrpc.frame import MAX_PAYLOAD, REQUEST, RESPONSE, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any, TypeVar

    from google.protobuf.message import Message

    from cutaway.shim.loop import Event, Loop, Task, Timer

    M = TypeVar("M", bound=Message)
    Handler = Callable[[Any, "Call"], Coroutine[Event, None, Message]]

_BACKLOG_AT_ONCE = 64


class Method:
    """How a method is served. `only_waits`: it may be given up at any time."""

    __slots__ = ("handler", "only_waits", "request")

    def __init__(self, request: "type[Message]", handler: "Handler", only_waits: bool = False) -> None:
        self.request = request
        self.handler = handler
        self.only_waits = only_waits


class Call:
    """One request: what came with it, and its reply."""

    __slots__ = ("_client", "_method", "metadata", "name", "stream", "task", "timer")

    def __init__(self, client: "_Client", stream: int, request: Request, method: Method) -> None:
        self._client = client
        self._method = method
        self.stream = stream
        self.name = f"{request.service}/{request.method}"
        self.metadata = {pair.key: pair.value for pair in request.metadata}
        self.task: Task | None = None
        self.timer: Timer | None = None

    async def run(self, message: "Message") -> None:
        try:
            reply = await self._method.handler(message, self)
        except Exception as error:  # noqa: BLE001 - every failure has to become a reply
            if not isinstance(error, errors.CutawayError | OSError):
                log.failure(self.name, error)
            self.finish(Response(status=_status(*status.of(error))))
        else:
            self.finish(Response(payload=reply.SerializeToString()))

    def finish(self, response: Response) -> None:
        """Reply, once."""
        if self.timer is not None:
            self.timer.cancel()
        self._client.reply(self.stream, response)

    def give_up(self) -> None:
        if self._method.only_waits and self.task is not None:
            self.task.cancel()

    def too_late(self) -> None:
        code, message = status.of(errors.DeadlineExceeded("context deadline exceeded"))
        self.finish(Response(status=_status(code, message)))
        self.give_up()


class _Client:
    """One connection and its calls."""

    def __init__(self, server: "Server", fd: int) -> None:
        self._server = server
        self._calls: dict[int, Call] = {}
        self._last_stream = 0
        self.connection = Connection(server.loop, fd, self._frame, self._closed)

    def reply(self, stream: int, response: Response) -> None:
        if self._calls.pop(stream, None) is not None:
            self._send(stream, response)

    def _send(self, stream: int, response: Response) -> None:
        self.connection.send(Frame(stream, RESPONSE, response.SerializeToString()))
        self._server.after_reply()

    def _refuse(self, stream: int, error: errors.CutawayError) -> None:
        self._send(stream, Response(status=_status(*status.of(error))))

    def _frame(self, frame: Frame) -> None:
        try:
            self._accept(frame)
        except errors.CutawayError as error:
            self._refuse(frame.stream, error)

    def _accept(self, frame: Frame) -> None:
        if frame.dropped:
            raise errors.ResourceExhausted(
                f"message length {frame.dropped} exceeds maximum message size of {MAX_PAYLOAD}"
            )
        if frame.stream % 2 != 1:
            raise errors.InvalidArgument("StreamID must be odd for client initiated streams")
        if frame.kind != REQUEST:
            return  # data of streams that we do not have, and types of a newer protocol
        if frame.stream <= self._last_stream:
            raise errors.InvalidArgument("StreamID cannot be re-used and must increment")
        self._last_stream = frame.stream
        self._start(frame.stream, _parse(Request(), frame.payload, "request"))

    def _start(self, stream: int, request: Request) -> None:
        method = self._server.find(request.service, request.method)
        message = _parse(method.request(), request.payload, request.method)
        call = Call(self, stream, request, method)
        self._calls[stream] = call
        if request.timeout_nano > 0:
            call.timer = self._server.loop.later(request.timeout_nano / 1e9, call.too_late)
        call.task = self._server.loop.spawn(call.run(message))

    def _closed(self) -> None:
        self._server.clients.discard(self)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if call.timer is not None:
                call.timer.cancel()
            call.give_up()


def _parse(message: "M", payload: bytes, what: str) -> "M":
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise errors.InvalidArgument(f"unmarshal {what}: {error}") from None
    return message


def _status(code: int, message: str) -> Status:
    return Status(code=code, message=message)


class Server:
    """Listens, and finds methods by `(service, method)`."""

    def __init__(
        self,
        loop: "Loop",
        listener: socket.socket,
        methods: "Mapping[tuple[str, str], Method]",
        after_reply: "Callable[[], None]",
    ) -> None:
        self.loop = loop
        self.after_reply = after_reply
        self.clients: set[_Client] = set()
        self._methods = methods
        self._services = {service for service, _ in methods}
        self._listener = listener
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._connected)

    def find(self, service: str, method: str) -> Method:
        """Raises `Unimplemented` in ttrpc's words."""
        if service not in self._services:
            raise errors.Unimplemented(f"service {service}")
        found = self._methods.get((service, method))
        if found is None:
            raise errors.Unimplemented(f"method {method}")
        return found

    def refuse(self) -> None:
        """Stop listening; who is connected stays so. Idempotent."""
        if self._listener.fileno() >= 0:
            self.loop.forget(self._listener.fileno())
            self._listener.close()

    def close(self) -> None:
        """Stop listening and hang up."""
        self.refuse()
        for client in list(self.clients):
            client.connection.close()

    def _connected(self, _: int) -> None:
        for _ in range(_BACKLOG_AT_ONCE):
            try:
                peer, _ = self._listener.accept()
            except BlockingIOError:
                return
            self.clients.add(_Client(self, peer.detach()))
