"""A tar file read in place: a member is an offset and a size in it, and nothing is ever unpacked.

So no name and no link in an archive can reach outside of it. Links are followed among its members, as
`docker save` makes them for layers that several images share.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

from cutaway import errors

MAX_MEMBERS: Final = 100_000
MAX_HEADER: Final = 1 << 20  # bytes of an extended header
MAX_LINKS: Final = 16
PIECE: Final = 1 << 20


@dataclass(frozen=True)
class Member:
    """Where a file's bytes are."""

    name: str
    offset: int
    size: int


class Archive:
    """The regular files and links of a tar file. Reading blocks: call it in a thread."""

    def __init__(self, file: BinaryIO) -> None:
        """Index the file. Raises `InvalidArgument` for what is no tar file."""
        self._file = file
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        try:
            # What tarfile reads besides content are headers, which may claim any size.
            with tarfile.open(fileobj=cast("Any", _Guarded(file)), mode="r:") as opened:
                self._index(opened)
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise errors.InvalidArgument(f"invalid tar archive: {error}") from None
        if not self._files:
            raise errors.InvalidArgument("invalid tar archive: there is no file in it")

    def _index(self, opened: tarfile.TarFile) -> None:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        count = 0
        while (entry := opened.next()) is not None:
            opened.members = []  # type: ignore[attr-defined]  # it would keep them all
            count += 1
            if count > MAX_MEMBERS:
                raise errors.ResourceExhausted(f"archive of more than {MAX_MEMBERS} members: refused")
            name = _inside(entry.name)
            if entry.issym():
                self._links[name] = _inside(posixpath.join(posixpath.dirname(name), entry.linkname))
            elif entry.islnk():
                self._links[name] = _inside(entry.linkname)
            elif entry.isreg() and not entry.issparse():
                if entry.size < 0 or entry.offset_data + entry.size > size:
                    raise errors.InvalidArgument(f"invalid tar archive: {name} is cut off")
                self._files[name] = Member(name, entry.offset_data, entry.size)
                self._links.pop(name, None)
            elif not entry.isdir():
                raise errors.InvalidArgument(f"invalid tar archive: {name} is neither file, link nor folder")

    def __contains__(self, name: str) -> bool:
        try:
            self.find(name)
        except (errors.NotFound, errors.InvalidArgument):
            return False
        return True

    def find(self, name: str) -> Member:
        """The file of a name, through links. Raises `NotFound`; `InvalidArgument` for a name outside."""
        path = _inside(name)
        for _ in range(MAX_LINKS):
            if path in self._files:
                return self._files[path]
            if path not in self._links:
                break
            path = self._links[path]
        raise errors.NotFound(f"archive: no file {name!r}")

    def read(self, name: str, limit: int) -> bytes:
        """A small file's content. Raises `ResourceExhausted` beyond `limit` bytes."""
        member = self.find(name)
        if member.size > limit:
            raise errors.ResourceExhausted(f"archive: {name!r} is larger than {limit} bytes")
        return b"".join(self.pieces(member))

    def pieces(self, member: Member) -> Iterator[bytes]:
        """A file's bytes, 1 MiB at a time."""
        done = 0
        while done < member.size:
            self._file.seek(member.offset + done)
            piece = self._file.read(min(PIECE, member.size - done))
            if not piece:
                raise errors.DataLoss(f"archive: {member.name!r} is cut off")
            done += len(piece)
            yield piece


def _inside(name: str) -> str:
    """A name in one form. Raises `InvalidArgument` for one that leads out of the archive."""
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../") or "\0" in name:
        raise errors.InvalidArgument(f"invalid path in archive: {name[:200]!r}")
    return path


class _Guarded:
    """A file as tarfile reads it, which refuses to read headers into memory whatever size they claim."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise errors.ResourceExhausted(f"archive: header of {size} bytes: at most {MAX_HEADER} allowed")
        return self._file.read(size)
