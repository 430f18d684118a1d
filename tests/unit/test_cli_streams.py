"""Frames, detach keys, and a whole attachment over a socket pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.cli.http import Connection
from cutaway.cli.loop import Loop, signal_name
from cutaway.cli.streams import Attachment, Frames
from cutaway.cli.terminal import DetachKeys, parse_keys
from cutaway.errors import InvalidArgument, Unknown


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.fixture
def pipes() -> Iterator[tuple[Frames, int, int]]:
    out, out_write = os.pipe()
    err, err_write = os.pipe()
    yield Frames(out_write, err_write), out, err
    for fd in (out, out_write, err, err_write):
        os.close(fd)


@pytest.mark.parametrize("size", [1, 3, 8, 9, 1000])
def test_frames_part_the_streams_however_they_are_cut(pipes: tuple[Frames, int, int], size: int) -> None:
    frames, out, err = pipes
    data = frame(1, b"one ") + frame(2, b"bad ") + frame(1, b"") + frame(1, b"two") + frame(2, b"news")
    for start in range(0, len(data), size):
        frames.feed(data[start : start + size])
    assert os.read(out, 100) == b"one two"
    assert os.read(err, 100) == b"bad news"


def test_a_stream_that_is_none(pipes: tuple[Frames, int, int]) -> None:
    with pytest.raises(Unknown, match="Unrecognized input header: 72"):
        pipes[0].feed(b"HTTP/1.1 200 OK")


def test_the_daemons_own_error(pipes: tuple[Frames, int, int]) -> None:
    with pytest.raises(Unknown, match="error from daemon in stream: log is gone"):
        pipes[0].feed(frame(3, b"log is gone"))


def test_key_sequences() -> None:
    assert parse_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_keys("a,ctrl-@,ctrl-_,Z") == b"a\x00\x1fZ"


@pytest.mark.parametrize("text", ["", "ab", "ctrl-", "ctrl-1", "a,,b", "ctrl-P"])
def test_bad_key_sequences(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid detach keys"):
        parse_keys(text)


def test_detaching_takes_the_whole_sequence() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.filter(b"a\x10b") == (b"a\x10b", False)
    assert keys.filter(b"\x10") == (b"", False)
    assert keys.filter(b"\x10") == (b"\x10", False)
    assert keys.filter(b"\x11 more") == (b"", True)


@given(st.lists(st.binary(max_size=4), max_size=20))
def test_nothing_typed_is_lost(pieces: list[bytes]) -> None:
    keys = DetachKeys(b"\x10\x11")
    passed, done = b"", False
    for piece in [*pieces, b"\x00"]:  # ends a sequence that was only begun
        kept, done = keys.filter(piece)
        passed += kept
        if done:
            break
    whole = b"".join([*pieces, b"\x00"])
    assert done == (b"\x10\x11" in whole)
    assert whole.startswith(passed)


class Pair:
    """Our end of an attachment and the container's."""

    def __init__(self, stdin: int | None, *, tty: bool = True, keys: DetachKeys | None = None) -> None:
        ours, self.peer = socket.socketpair()
        self.loop = Loop()
        self.attachment = Attachment(self.loop, Connection(ours), tty=tty, stdin=stdin, keys=keys)

    def run(self) -> None:
        while not self.attachment.finished:
            assert self.loop.once(5000), "nothing happens any more"


def test_without_stdin_the_other_side_sees_the_end_at_once() -> None:
    pair = Pair(None)
    assert pair.peer.recv(1) == b""
    pair.peer.close()
    pair.run()
    assert not pair.attachment.detached


def test_stdin_goes_over_and_its_end_too() -> None:
    reader, writer = os.pipe()
    pair = Pair(reader)
    os.write(writer, b"hello")
    os.close(writer)
    received = b""
    while not received.endswith(b"hello"):
        pair.loop.once(5000)
        received += pair.peer.recv(100, socket.MSG_DONTWAIT)
    pair.loop.once(5000)
    assert pair.peer.recv(1) == b""
    pair.peer.close()
    pair.run()
    os.close(reader)


def test_detach_keys_end_it_and_what_came_before_them_is_sent() -> None:
    reader, writer = os.pipe()
    pair = Pair(reader, keys=DetachKeys(b"\x10\x11"))
    os.write(writer, b"x\x10\x11")
    pair.run()
    assert pair.attachment.detached
    assert pair.peer.recv(10) == b"x"
    pair.peer.close()
    os.close(reader)
    os.close(writer)


def test_signals_have_their_names() -> None:
    assert signal_name(15) == "TERM" and signal_name(28) == "WINCH" and signal_name(40) == "40"
