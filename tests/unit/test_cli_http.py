"""HTTP as the CLI reads it, byte by byte, well-formed and not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.cli import jsontext
from cutaway.cli.client import Client
from cutaway.cli.failure import NoDaemon
from cutaway.cli.http import Connection, Response, query
from cutaway.errors import CutawayError, FailedPrecondition, NotFound, Unavailable, Unknown


@contextmanager
def answering(data: bytes, method: str = "GET") -> Iterator[Response]:
    """What the CLI makes of an answer."""
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.close()
    with ours:
        yield Response(Connection(ours), method)


Answer = Callable[..., Response]


@pytest.fixture
def answer() -> Iterator[Answer]:
    with ExitStack() as stack:
        yield lambda *given: stack.enter_context(answering(*given))


def test_a_body_of_known_length(answer: Answer) -> None:
    response = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello+more")
    assert response.read_all() == b"hello" and response.reusable
    assert response.headers["x-a"] == "b"


def test_a_chunked_body(answer: Answer) -> None:
    response = answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: x\r\n\r\n"
    )
    assert response.read_all() == b"abc0123456789" and response.reusable


def test_a_body_until_the_end(answer: Answer) -> None:
    response = answer(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    assert response.read_all() == b"all of it" and not response.reusable


@pytest.mark.parametrize("head", [b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n"])
def test_answers_without_a_body(answer: Answer, head: bytes) -> None:
    response = answer(head + b"\r\n")
    assert response.complete and response.read() == b"" and response.reusable


def test_a_head_has_no_body_whatever_its_length_says(answer: Answer) -> None:
    assert answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD").complete


def test_lines_come_whole(answer: Answer) -> None:
    body = b'3\r\n{}\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n1\r\n\n\r\n0\r\n\r\n'
    response = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert list(response.lines()) == [b"{}", b'{"a":1}']


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nHalf: head",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"x" * 200_000,
    ],
)
def test_a_broken_peer_is_one_plain_error(answer: Answer, data: bytes) -> None:
    with pytest.raises((Unavailable, Unknown)):
        answer(data[:150_000]).read_all()


@given(st.binary(max_size=200))
def test_no_answer_breaks_us(data: bytes) -> None:
    try:
        with answering(b"HTTP/1.1 200 OK\r\n" + data) as response:
            response.read_all()
    except CutawayError as error:
        assert error.message


def test_queries_are_encoded() -> None:
    assert query({"a": "x y/ö", "b": '{"c":1}'}) == "?a=x%20y%2F%C3%B6&b=%7B%22c%22%3A1%7D"
    assert query({}) == ""


@contextmanager
def serving(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """A peer that gives these answers, one a request, and keeps what it was asked."""
    seen: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        left = list(answers)
        while left:
            peer, _ = listener.accept()
            with peer:
                while left and (asked := peer.recv(65536)):
                    seen.append(asked)
                    peer.sendall(left.pop(0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        listener.close()


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ping(version: str) -> bytes:
    return reply("200 OK", b"", f"Api-Version: {version}", "Server: Test/1")


@pytest.mark.parametrize(("theirs", "used"), [("1.41", b"/v1.41/"), ("1.99", b"/v1.50/"), ("", b"/v1.24/")])
def test_the_lower_version_is_spoken(tmp_path: Path, theirs: str, used: bytes) -> None:
    with (
        serving(tmp_path / "s", ping(theirs), reply("200 OK", b"[]")) as seen,
        closing(Client(str(tmp_path / "s"))) as client,
    ):
        assert client.call("GET", "/containers/json") == []
    assert seen[0].startswith(b"HEAD /_ping HTTP/1.1\r\n")
    assert seen[1].startswith(b"GET " + used + b"containers/json HTTP/1.1\r\n")


def refused(tmp_path: Path, response: bytes, missing: str = "") -> Callable[[], object]:
    def ask() -> object:
        with serving(tmp_path / "s", ping("1.41"), response), closing(Client(str(tmp_path / "s"))) as client:
            return client.call("GET", "/x", missing=missing)

    return ask


def test_a_refusal_has_the_daemons_words(tmp_path: Path) -> None:
    ask = refused(tmp_path, reply("409 Conflict", b'{"message":"name taken"}'))
    with pytest.raises(FailedPrecondition, match=r"^Error response from daemon: name taken$"):
        ask()


def test_a_refusal_without_json_is_shown_as_it_is(tmp_path: Path) -> None:
    plain = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nnope\n"
    with pytest.raises(NotFound, match=r"^Error response from daemon: nope$"):
        refused(tmp_path, plain)()


def test_a_missing_object_is_named_in_our_words(tmp_path: Path) -> None:
    ask = refused(tmp_path, reply("404 Not Found", b'{"message":"whatever"}'), "container: web")
    with pytest.raises(NotFound, match=r"^Error: No such container: web$"):
        ask()


def test_nonsense_in_place_of_json(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="the daemon's answer is not JSON"):
        refused(tmp_path, reply("200 OK", b"<html>"))()


def test_no_daemon_says_which_socket_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "nobody"
    with pytest.raises(NoDaemon, match=f"unix://{path}: there is no such socket.*cutaway daemon start"):
        Client(str(path)).call("GET", "/x")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NoDaemon, match="nobody listens there"):
        Client(str(path)).call("GET", "/x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_is_what_everybody_elses_is(value: object) -> None:
    assert json.loads(jsontext.dumps(value)) == value
    assert json.loads(jsontext.dumps(value, html=True)) == value
    assert json.loads(jsontext.pretty(value)) == value
    assert jsontext.loads(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", '"x', "1 2", "[" * 100_000])
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(Unknown, match="is not JSON"):
        jsontext.loads(text)
