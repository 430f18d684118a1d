"""Seam 3 from above: calls of containerd's gRPC services, with nothing of any one service in here.

    client = ContainerdClient("/run/containerd/containerd.sock", "moby")
    reply: images_pb2.GetImageResponse = await client.call(IMAGES["Get"], images_pb2.GetImageRequest(name=n))

Every call carries `containerd-namespace`, the lease if there is one, and the trace context; a refusal
comes back as an error class of `cutaway.errors`. Replies are typed `Any` because a `Method` does not know
its message types statically: annotate the variable that receives one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio
from google.protobuf.message import Message

from cutaway import errors
from cutaway.engine.containerd_errors import from_rpc, was_not_sent
from cutaway.faults import point
from cutaway.pb import leases_pb2
from cutaway.pb.service import Method, methods
from cutaway.trace import context as trace_context
from cutaway.trace import spans

MAX_MESSAGE: Final = 16 << 20  # containerd's own default, in bytes
GC_EXPIRE: Final = "containerd.io/gc.expire"
LEASE_SECONDS: Final = 24 * 3600
RECONNECT_SECONDS: Final = 1.5
"""Longer than the longest pause between two tries to connect."""

# What a message fails with that was on its way when the peer ended the call.
_SENT_TOO_LATE: Final = "Internal error from Core"

# Request fields worth a place in the trace, where a request has them.
_TOLD: Final = ("container_id", "exec_id", "name", "key", "parent", "digest", "ref", "id", "signal")
# Fields that hold the object a request is about.
_CARRIERS: Final = ("image", "container", "info", "diff", "resource")

_LEASES: Final = methods(leases_pb2.DESCRIPTOR, "Leases")
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # By default a path would be the :authority, which servers in Go refuse.
    ("grpc.default_authority", "localhost"),
    # A containerd that was restarted is found again at once, not after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class ContainerdClient:
    """One containerd, seen in one of its namespaces. The connection is made at the first call.

    `address` is the path of its socket, with or without `unix:` or `unix://` before it.
    """

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address.removeprefix("unix://").removeprefix("unix:")
        self.namespace = namespace
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, for generic clients of other services (health)."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix:{self.address}", options=_OPTIONS)
        return self._channel

    async def close(self) -> None:
        """End the connection; calls under way fail with `Cancelled`."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def within(self, namespace: str) -> ContainerdClient:
        """A client of the same containerd for another namespace."""
        return ContainerdClient(self.address, namespace)

    async def call(
        self,
        method: Method,
        request: Message,
        *,
        lease: str | None = None,
        timeout: float | None = None,
        wait_for_ready: bool = False,
    ) -> Any:
        """Call a method that has one request and one response; `timeout` is in seconds.

        With `wait_for_ready`, a containerd that does not listen (yet) is waited for until the timeout;
        without, for `RECONNECT_SECONDS`: it may have been restarted just now.
        Raises the error class of the gRPC code.
        """
        call = self.channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        point("engine.containerd.before-call")
        with self._span(method, request):
            metadata = self._metadata(lease)
            try:
                try:
                    answer = await call(
                        request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
                    )
                except grpc.aio.AioRpcError as error:
                    if wait_for_ready or not was_not_sent(error) or not await self._reconnected():
                        raise
                    answer = await call(request, timeout=timeout, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error, self.address) from None
        point("engine.containerd.answered")
        return answer

    async def _reconnected(self) -> bool:
        """Whether there is a connection again before long."""
        try:
            await asyncio.wait_for(self.channel.channel_ready(), RECONNECT_SECONDS)
        except TimeoutError:
            return False
        return True

    async def stream(
        self, method: Method, request: Message, *, lease: str | None = None, timeout: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Call a method that answers with a stream; leaving the iteration cancels the call.

        Use `contextlib.aclosing` where the iteration may end early. Not recorded as a span: a stream
        such as Events/Subscribe has no end worth waiting for.
        """
        call = self.channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(request, timeout=timeout, metadata=self._metadata(lease))
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()

    def bidi(self, method: Method, *, lease: str | None = None, timeout: float | None = None) -> Conversation:
        """Call a method with streams in both directions, as an async context manager."""
        call = self.channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(timeout=timeout, metadata=self._metadata(lease))
        return Conversation(call, self.address)

    @asynccontextmanager
    async def lease(
        self,
        *,
        seconds: int = LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
        keep_on_error: bool = False,
        collect_on_error: bool = False,
    ) -> AsyncIterator[str]:
        """Hold a lease, and with it everything made under its id, against garbage collection.

        It expires by itself after `seconds`, should we die. With `keep_on_error` a block that fails
        leaves it to that expiry, so that what was complete is still there for a retry; with
        `collect_on_error`, what only this lease held is gone before the failure goes on.
        """
        lease_id = f"{time.time_ns()}-{secrets.token_urlsafe(3)}"
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        request = leases_pb2.CreateRequest(id=lease_id, labels={**(labels or {}), GC_EXPIRE: expiry})
        await self.call(_LEASES["Create"], request)
        try:
            yield lease_id
        except BaseException:
            if not keep_on_error:
                await asyncio.shield(self._delete_lease(lease_id, sync=collect_on_error))
            raise
        await asyncio.shield(self._delete_lease(lease_id))

    async def _delete_lease(self, lease_id: str, *, sync: bool = False) -> None:
        with suppress(errors.NotFound):  # it has expired meanwhile
            await self.call(_LEASES["Delete"], leases_pb2.DeleteRequest(id=lease_id, sync=sync))

    def _metadata(self, lease: str | None) -> tuple[tuple[str, str], ...]:
        metadata = [("containerd-namespace", self.namespace)]
        if lease:
            metadata.append(("containerd-lease", lease))
        if current := spans.current():
            metadata.append((trace_context.HEADER, current.traceparent))
        return tuple(metadata)

    def _span(self, method: Method, request: Message) -> spans.Span:
        span = spans.span(f"{method.service.rpartition('.')[2]}/{method.name}", kind=spans.CLIENT)
        if spans.enabled():
            span.set(**{"rpc.system": "grpc", "rpc.service": method.service, "peer": self.address})
            span.set(**_told(request))
        return span


def _told(request: Message) -> dict[str, str | int]:
    """What a request is about: its own key values, and those of the object it carries."""
    carried = next((getattr(request, name) for name in _CARRIERS if hasattr(request, name)), None)
    told = {name: getattr(request, name, "") or getattr(carried, name, "") for name in _TOLD}
    return {name: value for name, value in told.items() if value and isinstance(value, str | int)}


class EndedEarly(errors.Unavailable):
    """The peer has ended a call while a message was on its way: gRPC then loses its words."""

    def __init__(self) -> None:
        super().__init__("containerd ended the call while it was sent something")


class Conversation:
    """A call with streams in both directions; leaving the block early cancels it."""

    def __init__(self, call: grpc.aio.StreamStreamCall, address: str) -> None:
        self._call = call
        self._address = address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()  # does nothing to a call that has ended

    async def send(self, request: Message) -> None:
        """Send one message. Raises the peer's refusal, should it have ended the call, or `EndedEarly`."""
        with self._told():
            try:
                await self._call.write(request)
            except asyncio.InvalidStateError:
                raise await self._refusal() from None
            except grpc.aio.AioRpcError as error:
                raise (EndedEarly() if error.details() == _SENT_TOO_LATE else error) from None

    async def receive(self) -> Any:
        """The next message of the peer, or None at the end of its stream."""
        with self._told():
            reply = await self._call.read()
        return None if reply is grpc.aio.EOF else reply

    async def ask(self, request: Message) -> Any:
        """Send one message and return the answer to it; `Unknown` if the peer ended its stream instead."""
        await self.send(request)
        reply = await self.receive()
        if reply is None:
            raise await self._refusal()
        return reply

    async def done(self) -> None:
        """Say that no more messages come."""
        with self._told():
            try:
                await self._call.done_writing()
            except asyncio.InvalidStateError:
                raise await self._refusal() from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what grpc raises into our errors.

        A task that is cancelled cancels the call it waits for; whoever touches that call afterwards, to
        clean up, gets `Cancelled` and not the cancellation of a task that nobody has cancelled.
        """
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._address) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise errors.Cancelled("the call has been cancelled") from None
            raise

    async def _refusal(self) -> errors.CutawayError:
        """Why the call has ended."""
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            return errors.Unknown(f"containerd at {self._address} ended the stream too early")
        none = grpc.aio.Metadata()
        return from_rpc(grpc.aio.AioRpcError(code, none, none, details=details), self._address)
