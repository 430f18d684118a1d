"""Reading layers: the stream and the tar reader. Making files of it: tests/attacks and tests/containerd."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from containerd import layers
from cutaway.containerd.unpack import header, paths
from cutaway.containerd.unpack.limits import Limits
from cutaway.containerd.unpack.streams import Stream
from cutaway.containerd.unpack.tar import Entry, Kind, entries
from cutaway.errors import CutawayError, DataLoss, InvalidArgument, ResourceExhausted

CHUNK = 1 << 20


@contextmanager
def stream_of(data: bytes) -> Iterator[Stream]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        with closing(Stream(file.fileno())) as stream:
            yield stream


def read_all(data: bytes) -> list[tuple[Entry, bytes]]:
    with stream_of(data) as stream:
        return [(entry, stream.read(entry.stored)) for entry in entries(stream)]


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "gzip in members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "gzip with padding": lambda data: gzip.compress(data) + bytes(512),
    "zstd": zstandard.compress,
    "zstd in frames": lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_comes_out_is_what_went_in(compression: str, size: int) -> None:
    plain = (os.urandom(997) * (size // 997 + 1))[:size]
    with stream_of(COMPRESSIONS[compression](plain)) as stream:
        parts = []
        while part := stream.some(300_000):
            parts.append(bytes(part))
        assert b"".join(parts) == plain
        assert stream.finish() == f"sha256:{hashlib.sha256(plain).hexdigest()}"
        assert stream.count == stream.position == size


def test_the_digest_covers_what_nobody_read() -> None:
    with stream_of(gzip.compress(b"x" * 5 * CHUNK)) as stream:
        stream.read(10)
        assert stream.finish() == f"sha256:{hashlib.sha256(b'x' * 5 * CHUNK).hexdigest()}"


@pytest.mark.parametrize("cut", [3, 20, -1])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_truncated_stream_is_data_loss(compression: str, cut: int) -> None:
    whole = COMPRESSIONS[compression](layers.Tar().add("x", data=os.urandom(100_000)).bytes())
    with stream_of(whole[:cut]) as stream, pytest.raises(DataLoss):
        # Three bytes of zstd are not seen to be zstd: then it is the tar reader that finds no header.
        list(entries(stream))
        stream.finish()


def test_a_damaged_stream_is_data_loss() -> None:
    whole = bytearray(gzip.compress(os.urandom(100_000)))
    whole[5000] ^= 0xFF
    with stream_of(bytes(whole)) as stream, pytest.raises(DataLoss):
        stream.finish()


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_entries_are_those_of_the_standard_library(format: int) -> None:
    tar = layers.Tar(format)
    tar.folder("a").add("a/file", data=b"12345", mode=0o4711, owner=(1, 2)).add("b" * 90 + "/" + "c" * 90)
    tar.add("link", tarfile.SYMTYPE, link="a/file").add("hard", tarfile.LNKTYPE, link="a/file")
    tar.add("char", tarfile.CHRTYPE, device=(5, 1)).add("fifo", tarfile.FIFOTYPE).add("\u00e4")
    if format != tarfile.USTAR_FORMAT:
        tar.add("d" * 300, data=b"x" * 600).add("far", tarfile.SYMTYPE, link="e" * 300)
        tar.add("rich", owner=(4_000_000_000, 3_000_000_000))
    data = tar.bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as reference:
        wanted = [
            (one.name.encode(), one.mode, one.uid, one.gid, one.size, one.linkname.encode(), one.devmajor)
            for one in reference
        ]
    found = [(e.name.rstrip(b"/"), e.mode, e.uid, e.gid, e.size, e.link, e.major) for e, _ in read_all(data)]
    assert found == wanted


def test_times_have_nanoseconds_and_attributes_have_bytes() -> None:
    entries_of = {entry.name: entry for entry, _ in read_all(layers.base())}
    assert entries_of[b"etc/passwd"].mtime_ns == layers.MTIME_NS
    assert entries_of[b"before-the-epoch"].mtime_ns == -5_000_000_000
    assert entries_of[b"usr/bin/ping"].xattrs == {b"security.capability": layers.CAPABILITY.encode()}


def number(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def block(name: bytes, kind: bytes = b"0", size: int = 0, **fields: bytes) -> bytes:
    """A ustar header made by hand; `fields` are put at `at<offset>`."""
    head = bytearray(512)
    head[0 : len(name)] = name
    head[100:108] = head[108:116] = head[116:124] = number(0, 8)
    head[124:136], head[136:148] = number(size, 12), number(0, 12)
    head[156:157], head[257:265] = kind, b"ustar\x0000"
    for place, value in fields.items():
        at = int(place.removeprefix("at"))
        head[at : at + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: bytes) -> bytes:
    data = b""
    for record in records:
        line = b"0 %b\n" % record
        while int(line.split(b" ")[0]) != len(line):
            line = b"%d %b\n" % (len(line), record)
        data += line
    return block(b"pax", b"x", len(data)) + padded(data)


def sparse_cases() -> dict[str, bytes]:
    body = padded(b"AAAABB")
    two = number(1000, 12) + number(4, 12) + number(5000, 12) + number(2, 12)
    old = block(b"sparse", b"S", 6, at257=b"ustar  \0", at386=two, at483=number(6000, 12))
    many = b"".join(number(offset, 12) + number(1, 12) for offset in (100, 200, 300, 400))
    more = b"".join(number(offset, 12) + number(1, 12) for offset in (500, 600))
    extended = block(b"sparse", b"S", 6, at257=b"ustar  \0", at386=many, at482=b"\1", at483=number(700, 12))
    map_1_0 = padded(b"2\n1000\n4\n5000\n2\n")
    return {
        "old gnu": old + body,
        "old gnu, extended": extended + more.ljust(512, b"\0") + body,
        "pax 0.0": pax(
            b"GNU.sparse.size=6000", b"GNU.sparse.numblocks=2", b"GNU.sparse.offset=1000",
            b"GNU.sparse.numbytes=4", b"GNU.sparse.offset=5000", b"GNU.sparse.numbytes=2",
        ) + block(b"sparse", b"0", 6) + body,
        "pax 0.1": pax(b"GNU.sparse.size=6000", b"GNU.sparse.map=1000,4,5000,2", b"GNU.sparse.name=sparse")
        + block(b"other", b"0", 6) + body,
        "pax 1.0": pax(
            b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=sparse",
            b"GNU.sparse.realsize=6000",
        ) + block(b"other", b"0", 518) + map_1_0 + body,
    }  # fmt: skip


@pytest.mark.parametrize("form", sparse_cases())
def test_sparse_files_of_all_forms(form: str) -> None:
    ((entry, data),) = read_all(sparse_cases()[form])
    assert (entry.name, entry.kind, data) == (b"sparse", Kind.FILE, b"AAAABB")
    assert entry.segments is not None
    assert sum(length for _, length in entry.segments) == entry.stored == 6
    assert entry.size == (700 if "extended" in form else 6000)
    if "extended" not in form:
        assert entry.segments == [(1000, 4), (5000, 2)]


WRONG = {
    "checksum": bytes(block(b"x"))[:148] + b"0000000\0" + bytes(block(b"x"))[156:],
    "number": block(b"x", at124=b"99999999999\0"),
    "huge number": block(b"x", at124=b"\x80" + b"\xff" * 11),
    "negative size": block(b"x", at124=b"\xff" * 12),
    "unknown type": block(b"x", b"D"),
    "hole between": block(b"x") + bytes(512) + block(b"y"),
    "pax without length": block(b"p", b"x", 8) + padded(b"path=xy\n") + block(b"x"),
    "pax length beyond": block(b"p", b"x", 8) + padded(b"99 a=bc\n") + block(b"x"),
    "pax length zero": block(b"p", b"x", 6) + padded(b"0 a=b\n") + block(b"x"),
    "pax length huge": block(b"p", b"x", 26) + padded(b"9" * 24 + b" \n") + block(b"x"),
    "pax time": pax(b"mtime=yesterday") + block(b"x"),
    "pax size": pax(b"size=-1") + block(b"x"),
    "pax size text": pax(b"size=1e9") + block(b"x"),
    "pax uid": pax(b"uid=-1") + block(b"x"),
    "pax header of a gigabyte": block(b"p", b"x", 1 << 30),
    "name of a gigabyte": block(b"p", b"L", 1 << 30),
    "sparse beyond its end": block(
        b"s", b"S", 4, at257=b"ustar  \0", at386=number(1000, 12) + number(4, 12), at483=number(10, 12)
    )
    + padded(b"AAAA"),
    "sparse backwards": block(
        b"s", b"S", 8, at257=b"ustar  \0",
        at386=number(1000, 12) + number(4, 12) + number(0, 12) + number(4, 12), at483=number(2000, 12),
    ) + padded(b"AAAABBBB"),
    "sparse without data": block(
        b"s", b"S", 1, at257=b"ustar  \0", at386=number(0, 12) + number(4, 12), at483=number(10, 12)
    )
    + padded(b"A"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_add_up_is_refused(what: str) -> None:
    with pytest.raises(InvalidArgument):
        read_all(WRONG[what])


@pytest.mark.parametrize("cut", [100, 512 + 100, 512 + 600])
def test_a_tar_file_cut_short_is_data_loss(cut: int) -> None:
    with pytest.raises(DataLoss):
        read_all((block(b"x", b"0", 1000) + padded(b"y" * 1000))[:cut])


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_ends_that_writers_write(end: bytes) -> None:
    assert [entry.name for entry, _ in read_all(block(b"x") + end)] == [b"x"]


@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(layers.base()[:20_000])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    with suppress(CutawayError):
        read_all(bytes(whole))


@given(st.binary(max_size=24))
def test_any_number_field_is_read_or_refused(field: bytes) -> None:
    with suppress(InvalidArgument):
        header.number(field.ljust(8, b"\0"))
    with suppress(InvalidArgument):
        header.pax_time(field)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"a/b", (b"a", b"b")),
        (b"./a//b/", (b"a", b"b")),
        (b"a/../b", (b"b",)),
        (b"/", ()),
        (b"./", ()),
        (b"...", (b"...",)),
    ],
)
def test_names(name: bytes, parts: tuple[bytes, ...]) -> None:
    assert paths.parse(name) == parts


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/../../x", b"/x", b"a\0b", b"x" * 5000])
def test_names_that_are_refused(name: bytes) -> None:
    with pytest.raises(InvalidArgument):
        paths.parse(name)


def test_limits() -> None:
    limits = Limits(entries=2, size=1000, ratio=10, ratio_from=100)
    limits.check_entries(2)
    limits.check_bytes(1000, 100)
    with pytest.raises(ResourceExhausted, match="entries"):
        limits.check_entries(3)
    with pytest.raises(ResourceExhausted, match="larger"):
        limits.check_bytes(1001, 500)
    with pytest.raises(ResourceExhausted, match="bomb"):
        limits.check_bytes(200, 10)
