"""gRPC for the daemon: services are classes, this makes them callable.

A service names what it serves and has one method for each RPC, in snake_case (`ListStream` is
`list_stream`). An RPC without its method answers Unimplemented.

    class Version(Service):
        file = version_pb2.DESCRIPTOR
        name = "Version"

        async def version(self, request: Empty, call: Call) -> VersionResponse: ...

    unary            async def get(self, request, call) -> response
    server streaming async def list(self, request, call): yield response      (an async generator)
    both streaming   async def write(self, requests, call): yield response    (requests: an async iterator)

Methods raise the classes of `cutaway.errors`; `services.errors` turns these into status codes.
A call that brings a `traceparent` is recorded as a span, and its method runs inside of it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
import grpc.aio

from cutaway.containerd import names
from cutaway.containerd.services.errors import as_expected, code_of
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, Unimplemented, Unknown
from cutaway.pb.service import Method, methods
from cutaway.trace import context as trace_context
from cutaway.trace import spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.message import Message

log = logging.getLogger("containerd.grpc")

NAMESPACE = "containerd-namespace"
LEASE = "containerd-lease"

# What dockerd sets for the containerd it manages, in both directions.
MAX_MESSAGE = 16 << 20

# How much a client may send ahead on a stream.
WINDOW = 1 << 20

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),
    # Clients keep a connection for days and may ping on it as they like.
    ("grpc.http2.max_ping_strikes", 0),
    # Measuring the path of a Unix socket by a ping with every message is as much work as the message.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW),
)


class Call:
    """What a caller says beside the request itself."""

    __slots__ = ("_metadata", "method", "remaining")

    def __init__(
        self, method: Method, metadata: dict[str, str], remaining: Callable[[], float | None]
    ) -> None:
        self.method = method
        self._metadata = metadata
        self.remaining = remaining
        """Seconds until the caller's deadline; None without one."""

    @property
    def namespace(self) -> str:
        """Raises `FailedPrecondition` without one, `InvalidArgument` for a bad one."""
        namespace = self._metadata.get(NAMESPACE, "")
        if not namespace:
            raise FailedPrecondition("namespace is required: failed precondition")
        try:
            names.validate(namespace)
        except InvalidArgument as error:
            raise InvalidArgument(f"namespace validation: {error}") from None
        return namespace

    @property
    def lease(self) -> str:
        """The lease that owns what this call makes, or ""."""
        return self._metadata.get(LEASE, "")

    def metadata(self, key: str) -> str:
        """Any other metadata, or ""."""
        return self._metadata.get(key, "")


class Service:
    """Base of services: see the module's text."""

    file: ClassVar[FileDescriptor]
    name: ClassVar[str]


def snake_case(name: str) -> str:
    """`ListStream` as `list_stream`, `CloseIO` as `close_io`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # gRPC has no types
    """All RPCs of all services: gRPC asks one handler after the other, so there is one."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._rpcs: dict[str, grpc.RpcMethodHandler] = {}
        self._services: set[str] = set()
        for service in services:
            for name, method in methods(service.file, service.name).items():
                self._services.add(method.service)
                self._rpcs[method.path] = _rpc(method, getattr(service, snake_case(name), None))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = handler_call_details.method
        return self._rpcs.get(path) or self._unknown(path)

    def _unknown(self, path: str) -> grpc.RpcMethodHandler:
        """Refuses what newer clients try (sandboxes), in the words of a server in Go."""
        service, _, name = path.strip("/").rpartition("/")
        known = service in self._services
        text = f"unknown method {name} for service {service}" if known else f"unknown service {service}"

        async def refuse(_requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

        # On the wire a stream of one message is a message, so this refuses every kind of method.
        return grpc.stream_stream_rpc_method_handler(refuse)


def _rpc(method: Method, function: Callable[..., Any] | None) -> grpc.RpcMethodHandler:
    kind = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    behavior = (
        _streaming(method, function or _missing_stream)
        if method.server_streaming
        else _unary(method, function or _missing)
    )
    return kind(
        behavior,
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )


async def _missing(_request: Message, call: Call) -> Message:
    raise Unimplemented(f"method {call.method.name} not implemented")


async def _missing_stream(_request: Message, call: Call) -> AsyncIterator[Message]:
    raise Unimplemented(f"method {call.method.name} not implemented")
    yield  # makes this a generator


def _unary(method: Method, function: Callable[[Any, Call], Awaitable[Message]]) -> Callable[..., Any]:
    async def serve(request: Any, context: grpc.aio.ServicerContext) -> Message:
        call = _call(method, context)
        try:
            with _traced(call):
                return await function(request, call)
        except Exception as error:  # the seam: every failure becomes a status
            await _fail(context, method, error)
            raise AssertionError("abort returned") from error

    return serve


def _streaming(method: Method, function: Callable[[Any, Call], AsyncIterator[Message]]) -> Callable[..., Any]:
    async def serve(request: Any, context: grpc.aio.ServicerContext) -> None:
        call = _call(method, context)
        try:
            # Closed here, not whenever it is collected: a client that leaves gives up locks at once.
            async with aclosing(function(request, call)) as messages:  # type: ignore[type-var]
                with _traced(call):
                    async for message in messages:
                        await context.write(message)
        except Exception as error:  # noqa: BLE001 - the seam: every failure becomes a status
            await _fail(context, method, error)

    return serve


def _call(method: Method, context: grpc.aio.ServicerContext) -> Call:
    metadata: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            # Of several the first counts: containerd's clients put a newer namespace before the old one.
            metadata.setdefault(key, value)
    return Call(method, metadata, context.time_remaining)


async def _fail(context: grpc.aio.ServicerContext, method: Method, error: Exception) -> None:
    """Answer with a status. Only what nobody expected is worth a traceback, in the log."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    expected = as_expected(error)
    if isinstance(error, CutawayError):
        log.debug("%s: %s", method.path, error)
    elif isinstance(expected, Unknown):
        log.error("%s: %s", method.path, expected, exc_info=error)
    else:
        log.warning("%s: %s", method.path, expected)
    await context.abort(code_of(expected), str(expected) or type(expected).__name__)


_UNTRACED = trace_context.SpanContext("0" * 31 + "1", "0" * 15 + "1", sampled=False)


@contextmanager
def _traced(call: Call) -> Iterator[None]:
    """A span around a call that asks for one; otherwise nothing below it is recorded either.

    Without a collector of our own the caller's context still goes down to shims, which may have one.
    """
    parent = trace_context.parse(call.metadata(trace_context.HEADER))
    if parent is None or not spans.enabled():
        token = spans.attach(parent or _UNTRACED)
        try:
            yield
        finally:
            spans.detach(token)
        return
    name = f"{call.method.service.rsplit('.', 1)[-1]}/{call.method.name}"
    span = spans.span(
        name, parent=parent, kind=spans.SERVER, **{"rpc.system": "grpc", "rpc.method": call.method.path}
    )
    token = spans.attach(span.context)
    try:
        yield
    except Exception as error:
        span.error = str(error) or type(error).__name__
        raise
    finally:
        span.finish()
        spans.detach(token)


def start(services: Iterable[Service], address: str) -> grpc.aio.Server:
    """A server for services on a Unix socket that only root and its group may open. The caller starts it.

    Raises `FailedPrecondition` when the socket cannot be made.
    """
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Handlers(services),))
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{address}")
    except RuntimeError as error:
        raise FailedPrecondition(f"cannot listen on {address}: {error}") from None
    finally:
        os.umask(before)
    return server
