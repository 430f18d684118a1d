"""Chunks made ahead of their reader: no more than agreed, failures in their place, no thread left."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.containerd.unpack import header
from cutaway.containerd.unpack.ahead import Ahead
from cutaway.containerd.unpack.streams import Stream
from cutaway.errors import DataLoss, InvalidArgument


def test_chunks_come_in_order_and_then_nothing() -> None:
    ahead = Ahead(iter([b"one", b"", b"two"]))
    assert [ahead.next() for _ in range(4)] == [b"one", b"two", b"", b""]
    ahead.close()


def test_a_failure_comes_after_what_was_good() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"good"
        raise DataLoss("damaged")

    ahead = Ahead(chunks())
    assert ahead.next() == b"good"
    for _ in range(2):
        with pytest.raises(DataLoss, match="damaged"):
            ahead.next()
    ahead.close()


def test_no_more_is_made_than_agreed() -> None:
    made, enough = 0, threading.Event()

    def chunks() -> Iterator[bytes]:
        nonlocal made
        for made in range(1, 1000):
            if made > 3:
                enough.set()
            yield b"x"

    ahead = Ahead(chunks(), size=3)
    assert enough.wait(10)
    ahead.close()  # the thread has ended: what was made is final
    assert made == 4  # three that lie there, and one that waited for room


def test_a_reader_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(32 << 20))
        file.flush()
        stream = Stream(file.fileno())
        stream.read(10)
        stream.close()
    assert threading.active_count() == before


@given(st.binary(min_size=255, max_size=255), st.booleans(), st.integers(-3, 3))
def test_a_checksum_is_the_plain_sum_of_bytes(content: bytes, ascii_only: bool, off: int) -> None:
    """It is computed by other means where it can be."""
    if ascii_only:
        content = bytes(one & 0x7F for one in content)
    block = content[:100] + b"0" * 48 + b" " * 8 + content[100:] + bytes(201)
    sealed = block[:148] + b"%06o\0 " % (sum(block) + off) + block[156:]
    if off:
        with pytest.raises(InvalidArgument, match="checksum"):
            header.parse(sealed)
    else:
        assert header.parse(sealed).block == sealed
