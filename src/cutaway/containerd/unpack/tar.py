"""A tar stream as entries, read without good will.

What is read: V7, ustar, star, GNU (long names, base-256 numbers, old sparse files) and pax (POSIX.1-2017,
pax, "pax Interchange Format"; GNU sparse 0.0, 0.1, 1.0; SCHILY.xattr). Global pax headers are passed
over, as containerd does. Anything else, and anything that does not add up, is `InvalidArgument`: a
reader that guesses would see another tree than the next reader.

Names stay bytes; what they may be is for `paths` to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from cutaway.containerd.unpack import header as headers
from cutaway.containerd.unpack import sparse
from cutaway.containerd.unpack.header import BLOCK, Header
from cutaway.containerd.unpack.streams import Stream
from cutaway.errors import DataLoss, InvalidArgument

# Bytes of long names and pax records of one entry.
MAX_SPECIAL = 1 << 20

_XATTR = b"SCHILY.xattr."
_ZEROS = bytes(BLOCK)
_MAX_ID = (1 << 32) - 2  # -1 means "do not change" to chown(2)


class Kind(Enum):
    """What an entry makes."""

    FILE = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHAR = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


_KINDS = {**{one.value: one for one in Kind}, b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE}


@dataclass(slots=True)
class Entry:
    """One file of a layer. The data of a `FILE` comes next in the stream."""

    name: bytes
    kind: Kind
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    major: int = 0
    minor: int = 0
    stored: int = 0
    """How many bytes of data follow in the stream."""
    size: int = 0
    """How long the file is: `stored` unless it is sparse."""
    segments: sparse.Segments | None = None
    """Of a sparse file: offset and length of what is stored."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Extra:
    """What headers before the real one say about it."""

    name: bytes = b""
    link: bytes = b""
    pax: dict[bytes, bytes] = field(default_factory=dict)
    map: list[bytes] = field(default_factory=list)
    any: bool = False


def show(name: bytes) -> str:
    """A name as a person may read it, whatever is in it."""
    return '"' + name.decode("utf-8", "backslashreplace").encode("unicode_escape").decode()[:200] + '"'


def entries(stream: Stream) -> Iterator[Entry]:
    """All entries. The caller may read of a file's data what it likes before it asks for the next entry.

    Raises `InvalidArgument`, and `DataLoss` for a stream that ends early.
    """
    extra = _Extra()
    while (header := _next(stream)) is not None:
        if header.kind in (b"x", b"L", b"K", b"g"):
            _learn(extra, header.kind, _special(stream, header))
            continue
        entry = _entry(stream, header, extra)
        if extra.any:
            extra = _Extra()
        end = stream.position + entry.stored
        yield entry
        rest = end - stream.position + -entry.stored % BLOCK
        # Go's reader does not mind a last block that is not filled up, so neither do we.
        if not stream.skip(rest) and stream.position < end:
            raise DataLoss(f"layer is truncated in {show(entry.name)}")


def _next(stream: Stream) -> Header | None:
    """The next header; None at the end, which is two blocks of zeros or just the end of the stream."""
    block = stream.read(BLOCK)
    if not block:
        return None
    if len(block) < BLOCK:
        raise DataLoss("layer is truncated in a header")
    if block != _ZEROS:
        return headers.parse(block)
    second = stream.read(BLOCK)
    if second and second != _ZEROS:
        raise InvalidArgument("layer is no tar file: a block of zeros lies between entries")
    return None


def _special(stream: Stream, header: Header) -> bytes:
    if not 0 <= header.size <= MAX_SPECIAL:
        raise InvalidArgument(
            f"layer has a name or pax header of {header.size} bytes; at most {MAX_SPECIAL} are read"
        )
    data = stream.read(header.size)
    if len(data) < header.size or not stream.skip(-header.size % BLOCK):
        raise DataLoss("layer is truncated in a header")
    return data


def _learn(extra: _Extra, kind: bytes, data: bytes) -> None:
    extra.any = True
    if kind == b"L":
        extra.name = headers.text(data)
    elif kind == b"K":
        extra.link = headers.text(data)
    elif kind == b"x":
        records = headers.pax_records(data)
        extra.pax = dict(records)
        extra.map = [value for key, value in records if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]


def _entry(stream: Stream, header: Header, extra: _Extra) -> Entry:
    pax = extra.pax
    name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or extra.name or header.name
    kind = _KINDS.get(header.kind)
    if kind is None:
        raise InvalidArgument(f"layer entry {show(name)} is of unknown type {show(header.kind)}")
    if header.kind == b"\0" and name.endswith(b"/"):
        kind = Kind.DIRECTORY  # V7 has no type for it
    mtime = headers.pax_time(pax[b"mtime"]) if b"mtime" in pax else header.mtime * 1_000_000_000
    entry = Entry(
        name=name,
        kind=kind,
        link=pax.get(b"linkpath") or extra.link or header.link,
        mode=header.mode & 0o7777,
        uid=_id(pax, b"uid", header.uid, name),
        gid=_id(pax, b"gid", header.gid, name),
        mtime_ns=mtime,
        atime_ns=headers.pax_time(pax[b"atime"]) if b"atime" in pax else mtime,
        major=header.major,
        minor=header.minor,
    )
    if pax:
        entry.xattrs = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
    if kind is Kind.FILE:
        _measure(stream, entry, header, extra)
    return entry


def _id(pax: dict[bytes, bytes], key: bytes, value: int, name: bytes) -> int:
    if key in pax:
        value = headers.pax_number(pax[key])
    if not 0 <= value <= _MAX_ID:
        raise InvalidArgument(f"layer entry {show(name)} has {key.decode()} {value}, which no file can have")
    return value


def _measure(stream: Stream, entry: Entry, header: Header, extra: _Extra) -> None:
    """Set how much data there is and, for a sparse file, where it goes."""
    pax = extra.pax
    stored = headers.pax_number(pax[b"size"]) if b"size" in pax else header.size
    if stored < 0:
        raise InvalidArgument(f"layer entry {show(entry.name)} has a size of {stored}")
    entry.stored = entry.size = stored
    if header.kind == b"S":
        entry.segments, entry.size = sparse.old_gnu(stream, header.block)
    elif (form := sparse.kind_of_pax(pax)) == "1.0":
        entry.segments, taken = sparse.from_data(stream)
        entry.stored = stored - taken
        entry.size = headers.pax_number(pax.get(b"GNU.sparse.realsize", b"0"))
    elif form:
        pairs = pax[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in pax else extra.map
        entry.segments = sparse.from_pairs([one for one in pairs if one])
        entry.size = headers.pax_number(pax.get(b"GNU.sparse.size", b"0"))
    if entry.segments is not None:
        sparse.validate(entry.segments, entry.size, entry.stored)
