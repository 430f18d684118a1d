"""The ttrpc transport: framing, status codes, concurrent calls, hostile peers."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cutaway import errors
from cutaway.pb.ttrpc_pb2 import KeyValue, Request, Response
from cutaway.shim.loop import Event, Loop
from cutaway.shim.ttrpc import status
from cutaway.shim.ttrpc.client import Client
from cutaway.shim.ttrpc.frame import MAX_PAYLOAD, Decoder, Frame
from cutaway.shim.ttrpc.server import Call, Method, Server

HEADER = struct.Struct(">IIBB")


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=50)), max_size=6),
    st.integers(1, 40),
)
def test_frames_survive_any_cut(messages: list[tuple[int, int, bytes]], size: int) -> None:
    data = b"".join(Frame(stream, kind, payload).encode() for stream, kind, payload in messages)
    decoder = Decoder()
    found = [f for i in range(0, len(data), size) for f in decoder.feed(data[i : i + size])]
    assert [(f.stream, f.kind, f.payload) for f in found] == messages


def test_the_header_is_as_containerd_sends_it() -> None:
    assert Frame(1, 1, b"x" * 0x20F).encode()[:10].hex() == "0000020f000000010100"


def test_an_oversized_payload_is_skipped_and_the_next_frame_found() -> None:
    decoder = Decoder()
    length = MAX_PAYLOAD + 1
    (frame,) = decoder.feed(HEADER.pack(length, 1, 1, 0) + b"x")
    assert (frame.stream, frame.dropped, frame.payload) == (1, length, b"")
    assert decoder.feed(b"x" * (length - 2)) == []
    (after,) = decoder.feed(b"x" + Frame(3, 1, b"ok").encode())
    assert (after.stream, after.payload) == (3, b"ok")


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_nothing(data: bytes) -> None:
    Decoder().feed(data)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = {status.of(cls("words"))[0] for cls in errors.all_classes()}
    assert set(status.CODES) == set(errors.all_classes())
    assert len(codes) == len(errors.all_classes())
    assert 0 not in codes


def test_errors_cross_the_seam_as_what_they_are() -> None:
    for cls in errors.all_classes():
        code, message = status.of(cls("it went wrong"))
        assert type(status.error(code, message)) is cls
        assert message.startswith("it went wrong")
    assert status.of(errors.NotFound("container not created")) == (5, "container not created: not found")
    assert status.of(errors.NotFound("gone: not found")) == (5, "gone: not found")
    assert status.of(OSError(2, "no such file"))[0] == 2
    assert type(status.error(13, "internal")) is errors.Unknown


class Service:
    """A server in a thread, with calls that a test can watch."""

    def __init__(self, path: Path) -> None:
        self.path = os.fspath(path)
        self.gate = Event()
        self.waiting = 0
        self.given_up = 0
        self.finished: list[str] = []
        self.replies = 0
        self.loop = Loop()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        methods = {
            ("test.Service", "Echo"): Method(Request, self.echo),
            ("test.Service", "Wait"): Method(Empty, self.wait, only_waits=True),
            ("test.Service", "Work"): Method(Empty, self.work),
            ("test.Service", "Open"): Method(Empty, self.open),
            ("test.Service", "Count"): Method(Empty, self.count),
            ("test.Service", "Break"): Method(Empty, self.broken),
            ("test.Service", "Stop"): Method(Empty, self.stop),
        }
        self.server = Server(self.loop, listener, methods, self._replied)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.loop.run()
        self.server.close()

    def _replied(self) -> None:
        self.replies += 1

    async def echo(self, request: Request, call: Call) -> Message:
        return Request(service=request.service, metadata=[KeyValue(key="seen", value=str(call.metadata))])

    async def wait(self, request: Empty, call: Call) -> Message:
        self.waiting += 1
        try:
            await self.gate
        except GeneratorExit:
            self.given_up += 1
            raise
        return Empty()

    async def work(self, request: Empty, call: Call) -> Message:
        self.waiting += 1
        await self.gate
        self.finished.append("work")
        return Empty()

    async def open(self, request: Empty, call: Call) -> Message:
        self.gate.set()
        return Empty()

    async def count(self, request: Empty, call: Call) -> Message:
        return Request(service=f"{self.waiting} {self.given_up} {','.join(self.finished)}")

    async def broken(self, request: Empty, call: Call) -> Message:
        raise ZeroDivisionError("a mistake of ours")

    async def stop(self, request: Empty, call: Call) -> Message:
        self.loop.soon(self.loop.stop)
        return Empty()


class Peer:
    """A client that can also misbehave."""

    def __init__(self, service: Service) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(service.path)
        self.stream = -1

    def send(self, method: str, payload: bytes = b"", *, service: str = "test.Service", **fields: Any) -> int:
        self.stream += 2
        request = Request(service=service, method=method, payload=payload, **fields)
        self.socket.sendall(Frame(self.stream, 1, request.SerializeToString()).encode())
        return self.stream

    def receive(self) -> tuple[int, Response]:
        data = b""
        while len(data) < HEADER.size:
            data += self.socket.recv(HEADER.size - len(data))
        length, stream, _, _ = HEADER.unpack(data)
        payload = b""
        while len(payload) < length:
            payload += self.socket.recv(length - len(payload))
        return stream, Response.FromString(payload)

    def call(self, method: str, payload: bytes = b"", **fields: Any) -> Response:
        stream = self.send(method, payload, **fields)
        found, response = self.receive()
        assert found == stream
        return response

    def counts(self) -> str:
        return Request.FromString(self.call("Count").payload).service


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "s")
    yield service
    peer = Peer(service)
    peer.call("Stop")
    peer.socket.close()
    service.thread.join()


@pytest.fixture
def peer(served: Service) -> Iterator[Peer]:
    found = Peer(served)
    yield found
    found.socket.close()


def test_a_call_with_metadata(peer: Peer) -> None:
    payload = Request(service="hello").SerializeToString()
    response = peer.call("Echo", payload, metadata=[KeyValue(key="traceparent", value="00-1")])
    assert not response.HasField("status")
    reply = Request.FromString(response.payload)
    assert (reply.service, reply.metadata[0].value) == ("hello", "{'traceparent': '00-1'}")


def test_a_call_that_waits_does_not_hold_up_another(peer: Peer) -> None:
    waiting = peer.send("Wait")
    assert peer.counts() == "1 0 "
    opening = peer.send("Open")
    assert sorted([peer.receive()[0], peer.receive()[0]]) == [waiting, opening]


def test_a_deadline_answers_in_time_and_gives_up_what_only_waits(peer: Peer) -> None:
    response = peer.call("Wait", timeout_nano=1_000_000)
    assert (response.status.code, response.status.message) == (4, "context deadline exceeded")
    response = peer.call("Work", timeout_nano=1_000_000)
    assert response.status.code == 4
    assert peer.counts() == "2 1 "
    peer.call("Open")
    assert peer.counts() == "2 1 work", "what does something goes on to its end"


def test_a_client_that_hangs_up_leaves_no_waiter(served: Service, peer: Peer) -> None:
    other = Peer(served)
    other.send("Wait")
    other.send("Work")
    while peer.counts() != "2 0 ":
        continue
    other.socket.close()
    while peer.counts() != "2 1 ":
        continue
    peer.call("Open")
    assert peer.counts() == "2 1 work"


def test_unknown_names_and_mistakes_are_statuses(peer: Peer) -> None:
    def status_of(response: Response) -> tuple[int, str]:
        return response.status.code, response.status.message

    assert status_of(peer.call("X", service="no.Such")) == (12, "service no.Such: not implemented")
    assert status_of(peer.call("X")) == (12, "method X: not implemented")
    code, message = status_of(peer.call("Echo", b"\xff"))
    assert (code, message.startswith("unmarshal Echo: ")) == (3, True)
    assert status_of(peer.call("Break")) == (2, "a mistake of ours")


def test_hostile_frames_get_an_answer_and_the_connection_stays(peer: Peer) -> None:
    def answer(frame: bytes) -> tuple[int, int]:
        peer.socket.sendall(frame)
        stream, response = peer.receive()
        return stream, response.status.code

    assert answer(Frame(2, 1, b"").encode()) == (2, 3), "even stream"
    assert answer(Frame(5, 1, b"\xff\xff").encode()) == (5, 3), "no request"
    assert answer(Frame(5, 1, b"").encode()) == (5, 3), "stream used again"
    assert answer(HEADER.pack(MAX_PAYLOAD + 1, 7, 1, 0) + bytes(MAX_PAYLOAD + 1)) == (7, 8), "too large"
    peer.socket.sendall(Frame(9, 3, b"data").encode() + Frame(11, 99, b"?").encode())  # not ours: no answer
    peer.stream = 11
    assert peer.counts() == "0 0 "


def test_the_largest_payload_goes_both_ways(peer: Peer) -> None:
    text = "x" * (MAX_PAYLOAD - 200)
    reply = Request.FromString(peer.call("Echo", Request(service=text).SerializeToString()).payload)
    assert reply.service == text


def test_a_peer_that_never_reads_is_hung_up_on(served: Service, peer: Peer) -> None:
    greedy = Peer(served)
    payload = Request(service="x" * (1 << 20)).SerializeToString()
    with pytest.raises(OSError, match=r"."):
        for _ in range(64):
            greedy.send("Echo", payload)
    greedy.socket.close()
    assert peer.counts() == "0 0 "


def test_our_client_asks_one_thing_at_a_time_and_learns_of_the_end(tmp_path: Path) -> None:
    loop = Loop()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(tmp_path / "s"))
    listener.listen()

    async def echo(request: Request, call: Call) -> Message:
        return request

    server = Server(loop, listener, {("t", "Echo"): Method(Request, echo)}, lambda: None)
    client = Client(loop, os.fspath(tmp_path / "s"))
    answers: list[Response | None] = []

    def answered(response: Response | None) -> None:
        answers.append(response)
        if len(answers) == 1:
            server.close()
            client.call(Request(service="t", method="Echo"), 5, answered)
        else:
            loop.stop()

    client.call(Request(service="t", method="Echo"), 5, answered)
    loop.run()
    assert answers == [Response(), None]
    with pytest.raises(OSError, match="refused"):
        client.call(Request(), 5, answered)
