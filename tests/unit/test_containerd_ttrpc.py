"""ttrpc as the daemon speaks it: a client of shims, a server for events, and what hostile peers get."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cutaway import errors
from cutaway.containerd.ttrpc import frames, status
from cutaway.containerd.ttrpc.client import Client
from cutaway.containerd.ttrpc.frames import Frame
from cutaway.containerd.ttrpc.server import Server
from cutaway.pb import events_ttrpc_pb2, shim_pb2, ttrpc_pb2
from cutaway.pb.service import methods
from cutaway.trace import context, spans

TASK = methods(shim_pb2.DESCRIPTOR, "Task")
FORWARD = methods(events_ttrpc_pb2.DESCRIPTOR, "Events")["Forward"]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_peer(folder: Path, peer: Peer, body: Callable[[Client], Awaitable[Any]]) -> Any:
    """Connect a client to a peer made by hand, and run a test's body with it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer(reader, writer)
        await reader.read()  # as long as the client stays
        writer.close()

    async def run() -> Any:
        server = await asyncio.start_unix_server(serve, folder / "s")
        client = await Client.connect(os.fspath(folder / "s"))
        try:
            async with asyncio.timeout(10):
                return await body(client)
        finally:
            client.close()
            await client.closed
            server.close()

    return asyncio.run(run())


def answer(stream: int, message: Message) -> bytes:
    return frames.pack(
        Frame(
            stream,
            frames.RESPONSE,
            ttrpc_pb2.Response(payload=message.SerializeToString()).SerializeToString(),
        )
    )


def refusal(stream: int, code: int, text: str) -> bytes:
    response = ttrpc_pb2.Response()
    response.status.code, response.status.message = code, text
    return frames.pack(Frame(stream, frames.RESPONSE, response.SerializeToString()))


async def request(reader: asyncio.StreamReader) -> tuple[int, ttrpc_pb2.Request]:
    frame = await frames.read(reader)
    assert frame is not None
    return frame.stream, ttrpc_pb2.Request.FromString(frame.payload)


def connect(client: Client, id: str = "x", timeout: float | None = None) -> Awaitable[Any]:
    return client.call(TASK["Connect"], shim_pb2.ConnectRequest(id=id), timeout=timeout)


# Client


def test_call_sends_what_the_protocol_wants_and_returns_the_answer(tmp_path: Path) -> None:
    seen: list[tuple[int, ttrpc_pb2.Request]] = []

    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await request(reader))
            writer.write(answer(seen[-1][0], shim_pb2.ConnectResponse(task_pid=7)))

    async def body(client: Client) -> None:
        assert (await connect(client)).task_pid == 7
        assert (await connect(client, timeout=2.0)).task_pid == 7

    with_peer(tmp_path, shim, body)
    assert [stream for stream, _ in seen] == [1, 3]
    first, second = (sent for _, sent in seen)
    assert (first.service, first.method) == ("containerd.task.v2.Task", "Connect")
    assert shim_pb2.ConnectRequest.FromString(first.payload).id == "x"
    assert (first.timeout_nano, second.timeout_nano) == (0, 2_000_000_000)


def test_answers_may_come_in_any_order(tmp_path: Path) -> None:
    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls = [await request(reader) for _ in range(20)]
        for stream, sent in reversed(calls):
            number = int(shim_pb2.ConnectRequest.FromString(sent.payload).id)
            writer.write(answer(stream, shim_pb2.ConnectResponse(task_pid=number)))

    async def body(client: Client) -> list[Any]:
        return await asyncio.gather(*(connect(client, str(number)) for number in range(20)))

    assert [found.task_pid for found in with_peer(tmp_path, shim, body)] == list(range(20))


@pytest.mark.parametrize("kind", errors.all_classes())
def test_error_crosses_as_the_class_it_is(tmp_path: Path, kind: type[errors.CutawayError]) -> None:
    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, _ = await request(reader)
        writer.write(refusal(stream, status.code_of(kind("what it is")), "what it is"))

    async def body(client: Client) -> None:
        with pytest.raises(kind, match="what it is"):
            await connect(client)

    with_peer(tmp_path, shim, body)


@pytest.mark.parametrize(
    ("code", "said", "shown"),
    [
        (5, "process does not exist e: not found", "process does not exist e: not found"),
        (5, "container not created", "container not created: not found"),
        (2, "runc did not terminate", "runc did not terminate: unknown"),
        (6, "already exists", "already exists"),
        (8, "too much", "too much"),
        (77, "from the future", "from the future: unknown"),
        (9, "", "failed precondition"),
    ],
)
def test_text_of_an_error_ends_as_containerds(code: int, said: str, shown: str) -> None:
    assert str(status.error_of(code, said)) == shown


def test_end_of_the_connection_ends_every_call(tmp_path: Path) -> None:
    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await request(reader)
        writer.close()

    async def body(client: Client) -> None:
        ended = await asyncio.gather(connect(client), connect(client), return_exceptions=True)
        assert [type(error) for error in ended] == [errors.Unavailable] * 2
        await client.closed
        with pytest.raises(errors.Unavailable, match="ttrpc: closed"):
            await connect(client)

    with_peer(tmp_path, shim, body)


def test_late_answer_of_a_call_that_timed_out_goes_nowhere(tmp_path: Path) -> None:
    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, _ = await request(reader)
        second, _ = await request(reader)
        writer.write(answer(first, shim_pb2.ConnectResponse(task_pid=1)))
        writer.write(answer(second, shim_pb2.ConnectResponse(task_pid=2)))

    async def body(client: Client) -> None:
        with pytest.raises(errors.DeadlineExceeded, match=r"Connect within 0\.01 s"):
            await connect(client, timeout=0.01)
        assert (await connect(client)).task_pid == 2

    with_peer(tmp_path, shim, body)


def test_oversized_answer_costs_one_call(tmp_path: Path) -> None:
    size = frames.MAX_PAYLOAD + 1

    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, _ = await request(reader)
        writer.write(frames.HEADER.pack(size, stream, frames.RESPONSE, 0) + bytes(size))
        stream, _ = await request(reader)
        writer.write(answer(stream, shim_pb2.ConnectResponse(task_pid=2)))

    async def body(client: Client) -> None:
        with pytest.raises(errors.ResourceExhausted, match="exceed maximum message size of 4194304"):
            await connect(client)
        assert (await connect(client)).task_pid == 2

    with_peer(tmp_path, shim, body)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\0",
        b"\0\0\0\5\0\0\0\1\2\0abc",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">IIBB", 0xFFFFFFFF, 1, 2, 0) + b"x" * 100,
    ],
)
def test_peer_that_talks_rubbish_and_leaves_ends_the_call(tmp_path: Path, rubbish: bytes) -> None:
    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(rubbish)
        writer.close()

    async def body(client: Client) -> None:
        with pytest.raises(errors.Unavailable):
            await connect(client)

    with_peer(tmp_path, shim, body)


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x12\x7f"])
def test_answer_that_is_no_protobuf_is_said_to_be_unreadable(tmp_path: Path, payload: bytes) -> None:
    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, _ = await request(reader)
        writer.write(frames.pack(Frame(stream, frames.RESPONSE, payload)))

    async def body(client: Client) -> None:
        with pytest.raises(errors.Unknown, match="cannot be read"):
            await connect(client)

    with_peer(tmp_path, shim, body)


def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="No such file"):
        asyncio.run(Client.connect(os.fspath(tmp_path / "none")))


def test_trace_context_goes_along(tmp_path: Path) -> None:
    seen: list[ttrpc_pb2.Request] = []
    parent = context.SpanContext("a" * 32, "b" * 16)

    async def shim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, sent = await request(reader)
        seen.append(sent)
        writer.write(answer(stream, shim_pb2.ConnectResponse()))

    async def body(client: Client) -> None:
        token = spans.attach(parent)
        await connect(client)
        spans.detach(token)

    with_peer(tmp_path, shim, body)
    (pair,) = seen[0].metadata
    assert pair.key == "traceparent"
    assert pair.value.startswith(f"00-{'a' * 32}-")


# Server


def with_server(
    folder: Path, body: Callable[[Connection], Awaitable[Any]], fail: Exception | None = None
) -> Any:
    """Run a test's body on a connection to a server of `Forward`, which may be made to fail."""

    async def forward(_: events_ttrpc_pb2.ForwardRequest, __: Mapping[str, str]) -> Empty:
        if fail is not None:
            raise fail
        return Empty()

    async def run() -> Any:
        server = Server(os.fspath(folder / "e"))
        server.add(FORWARD, forward)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(folder / "e")
        try:
            async with asyncio.timeout(10):
                return await body((reader, writer))
        finally:
            writer.close()
            await writer.wait_closed()
            await server.stop()

    return asyncio.run(run())


def forwarding(stream: int = 1, method: str = "Forward", payload: bytes = b"") -> bytes:
    sent = ttrpc_pb2.Request(service=FORWARD.service, method=method, payload=payload)
    return frames.pack(Frame(stream, frames.REQUEST, sent.SerializeToString()))


async def exchange(connection: Connection, data: bytes) -> tuple[int, ttrpc_pb2.Response]:
    reader, writer = connection
    writer.write(data)
    frame = await frames.read(reader)
    assert frame is not None
    assert frame.kind == frames.RESPONSE
    return frame.stream, ttrpc_pb2.Response.FromString(frame.payload)


def test_server_answers_on_the_stream_it_was_asked(tmp_path: Path) -> None:
    async def body(connection: Connection) -> None:
        for stream in (1, 3, 99):
            found, response = await exchange(connection, forwarding(stream))
            assert found == stream
            assert not response.HasField("status")

    with_server(tmp_path, body)


@pytest.mark.parametrize("kind", errors.all_classes())
def test_server_maps_every_error(tmp_path: Path, kind: type[errors.CutawayError]) -> None:
    async def body(connection: Connection) -> None:
        _, response = await exchange(connection, forwarding())
        assert isinstance(status.error_of(response.status.code, ""), kind)
        assert response.status.message == "why"

    with_server(tmp_path, body, kind("why"))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (forwarding(method="Nothing"), 12),
        (forwarding(payload=b"\xff\xff"), 3),
        (frames.pack(Frame(1, frames.REQUEST, b"\xff\xff")), 3),
        (frames.HEADER.pack(frames.MAX_PAYLOAD + 9, 1, 1, 0) + bytes(frames.MAX_PAYLOAD + 9), 8),
    ],
    ids=["method", "payload", "envelope", "size"],
)
def test_server_refuses_and_goes_on(tmp_path: Path, sent: bytes, code: int) -> None:
    async def body(connection: Connection) -> None:
        _, response = await exchange(connection, sent)
        assert response.status.code == code
        _, response = await exchange(connection, forwarding(3))
        assert not response.HasField("status")

    with_server(tmp_path, body)


@given(st.binary(max_size=64))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    async def body() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        while await frames.read(reader):
            pass

    asyncio.run(body())


def test_message_too_large_to_send_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="exceeds ttrpc's maximum"):
        frames.pack(Frame(1, frames.REQUEST, bytes(frames.MAX_PAYLOAD + 1)))


def test_only_root_may_open_the_socket(tmp_path: Path) -> None:
    async def body(_: Connection) -> None:
        assert (tmp_path / "e").stat().st_mode & 0o777 == 0o600

    with_server(tmp_path, body)
