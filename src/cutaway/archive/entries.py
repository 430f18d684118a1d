"""A tar stream as entries, read without good will and in bounded memory.

    for entry in entries(stream):
        for offset, piece in stream.content(entry): ...

Read are ustar, GNU and pax, sparse files included (but for pax 0.0, which only old tars write). What does
not add up is refused in the words of Go's archive/tar, which Docker's users know.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from cutaway.archive import sparse
from cutaway.archive.packing import XATTR
from cutaway.errors import InvalidArgument

MAX_SPECIAL: Final = 1 << 20  # bytes of one long name or pax header
MAX_IN_A_ROW: Final = 16  # special headers before one entry
PIECE: Final = 256 << 10
INVALID: Final = "archive/tar: invalid tar header"
CUT_OFF: Final = "unexpected EOF"

_BLOCK: Final = tarfile.BLOCKSIZE
_ZEROS: Final = bytes(_BLOCK)
_SPECIAL: Final = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_SPARSE)
_MAX_ID: Final = (1 << 32) - 2  # -1 means "do not change" to chown(2)
_MAX_TIME: Final = (1 << 33) - 1  # seconds; what file systems can hold


class Source(Protocol):
    """Where a tar file comes from: up to so many bytes, none at its end."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class Entry:
    """One file of the archive. `kind` is the type flag; every kind of regular file is `tarfile.REGTYPE`."""

    name: str
    kind: bytes
    link: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    major: int = 0
    minor: int = 0
    stored: int = 0
    """How many bytes of data follow in the stream."""
    size: int = 0
    """How long the file is: `stored` unless it is sparse."""
    segments: sparse.Segments | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)


@dataclass
class _Extra:
    """What headers before the real one say about it."""

    name: str = ""
    link: str = ""
    pax: dict[str, str] = field(default_factory=dict)


class Stream:
    """A source with a position."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead = b""
        self.position = 0

    def some(self, most: int) -> bytes:
        """Up to so many bytes; none at the end."""
        data = self._ahead or self._source.read(PIECE)
        self._ahead = data[most:]
        data = data[:most]
        self.position += len(data)
        return data

    def exactly(self, count: int) -> bytes:
        """Just so many bytes. Raises `InvalidArgument` if there are fewer."""
        data = self.up_to(count)
        if len(data) < count:
            raise InvalidArgument(CUT_OFF)
        return data

    def up_to(self, count: int) -> bytes:
        """So many bytes, or all that is left."""
        data = self.some(count)
        while len(data) < count and (more := self.some(count - len(data))):
            data += more
        return data

    def skip_to(self, position: int) -> None:
        while self.position < position:
            if not self.some(min(PIECE, position - self.position)):
                raise InvalidArgument(CUT_OFF)

    def content(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """The data of the entry that was read last, as pieces and where in the file they go."""
        for offset, length in entry.segments if entry.segments is not None else [(0, entry.stored)]:
            done = 0
            while done < length:
                piece = self.some(min(PIECE, length - done))
                if not piece:
                    raise InvalidArgument(CUT_OFF)
                yield offset + done, piece
                done += len(piece)


def entries(stream: Stream) -> Iterator[Entry]:
    """All entries; their data is passed over as far as the caller does not read it.

    Raises `InvalidArgument`.
    """
    while (entry := _next(stream)) is not None:
        end = stream.position + entry.stored
        yield entry
        stream.skip_to(end)
        stream.up_to(-entry.stored % _BLOCK)  # as Go's, not minding a last block that is not filled up


def _next(stream: Stream) -> Entry | None:
    extra = _Extra()
    for _ in range(MAX_IN_A_ROW):
        block = stream.up_to(_BLOCK)
        if not block or block == _ZEROS:
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError):
            raise InvalidArgument(CUT_OFF if len(block) < _BLOCK else INVALID) from None
        if info.type not in _SPECIAL:
            return _entry(stream, info, block, extra)
        if not 0 <= info.size <= MAX_SPECIAL:
            raise InvalidArgument(f"{INVALID}: special header of {info.size} bytes")
        data = stream.exactly(info.size)
        stream.exactly(-info.size % _BLOCK)
        _learn(extra, info.type, data)
    raise InvalidArgument(INVALID)


def _learn(extra: _Extra, kind: bytes, data: bytes) -> None:
    if kind == tarfile.XHDTYPE:
        extra.pax = _records(data)
    elif kind == tarfile.GNUTYPE_LONGNAME:
        extra.name = _text(data)
    elif kind == tarfile.GNUTYPE_LONGLINK:
        extra.link = _text(data)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[str, str]:
    """`length key=value\\n`, the length being the whole record's."""
    records, at = {}, 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise InvalidArgument(INVALID)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise InvalidArgument(INVALID)
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


def _entry(stream: Stream, info: tarfile.TarInfo, block: bytes, extra: _Extra) -> Entry:
    pax = extra.pax
    name = pax.get("GNU.sparse.name") or pax.get("path") or extra.name or info.name
    link = pax.get("linkpath") or extra.link or info.linkname
    if "\0" in name + link:
        raise InvalidArgument(INVALID)
    directory = info.type == tarfile.AREGTYPE and name.endswith("/")  # V7 has no type for it
    kind = tarfile.DIRTYPE if directory else tarfile.REGTYPE if info.type in _FILES else info.type
    entry = Entry(
        name=name,
        kind=kind,
        link=link,
        mode=info.mode & 0o7777,
        uid=_whole(pax.get("uid"), info.uid, _MAX_ID),
        gid=_whole(pax.get("gid"), info.gid, _MAX_ID),
        mtime_ns=_time(pax["mtime"]) if "mtime" in pax else _seconds(int(info.mtime)),
        major=info.devmajor,
        minor=info.devminor,
        xattrs={
            key[len(XATTR) :]: value.encode("utf-8", "surrogateescape")
            for key, value in pax.items()
            if key.startswith(XATTR)
        },
    )
    if kind == tarfile.REGTYPE:
        _measure(stream, entry, info, block, pax)
    return entry


def _measure(stream: Stream, entry: Entry, info: tarfile.TarInfo, block: bytes, pax: dict[str, str]) -> None:
    """Set how much data there is and, for a sparse file, where it goes."""
    entry.stored = entry.size = _whole(pax.get("size"), info.size, 1 << 62)
    if info.type == tarfile.GNUTYPE_SPARSE:
        entry.segments, entry.size = sparse.old_gnu(block, stream.exactly)
    elif sparse.is_pax(pax):
        entry.segments, entry.size, taken = sparse.of_pax(pax, stream.exactly)
        entry.stored -= taken
    if entry.segments is not None:
        sparse.check(entry.segments, entry.size, entry.stored)


def _whole(text: str | None, value: int, most: int) -> int:
    if text is not None:
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            raise InvalidArgument(INVALID)
        value = int(text)
    if not 0 <= value <= most:
        raise InvalidArgument(INVALID)
    return value


def _time(text: str) -> int:
    """Seconds with a fraction as nanoseconds."""
    seconds, _, fraction = text.partition(".")
    digits = seconds.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18) or (
        fraction and not (fraction.isascii() and fraction.isdigit())
    ):
        raise InvalidArgument(INVALID)
    rest = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return _seconds(int(seconds)) + (rest if not seconds.startswith("-") else -rest)


def _seconds(value: int) -> int:
    return max(-_MAX_TIME, min(value, _MAX_TIME)) * 1_000_000_000
