"""A file or a directory as a tar stream: pax headers, whole seconds, numbers for owners, as Docker's are.

The tree may change under our hands and be hostile. Nothing is opened through a link, only regular files
are opened at all, and of each just as much is sent as its header says. What has gone meanwhile is left
out, and so are sockets, which mean nothing without their program.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import Final

from cutaway.archive import paths

PIECE: Final = 256 << 10  # bytes; what a stream is handed on in
XATTR: Final = "SCHILY.xattr."

_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)
_KINDS: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
# It was exchanged or removed while we looked; or its name is longer than any path can be.
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV, errno.ESTALE)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def pack(fd: int, name: str) -> Iterator[bytes]:
    """What a descriptor (O_PATH) stands for, under a name; a directory with all that is in it.

    With the name "", a root's, the directory is called "/" and what is in it "/bin". Raises OSError.
    """
    buffer = bytearray()
    for piece in _Packer(fd, name).entries():
        if len(piece) >= PIECE and not buffer:
            yield piece
            continue
        buffer += piece
        if len(buffer) >= PIECE:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer + _END)


class _Packer:
    def __init__(self, top: int, name: str) -> None:
        self._top = top
        self._name = name
        self._linked: dict[tuple[int, int], str] = {}

    def entries(self) -> Iterator[bytes]:
        top = os.fstat(self._top)
        if not stat.S_ISDIR(top.st_mode):
            yield from self._entry(self._top, top, self._name)
            return
        yield from self._entry(self._top, top, self._name)
        todo = [iter(self._names(""))]
        while todo:
            path = next(todo[-1], None)
            if path is None:
                todo.pop()
                continue
            try:
                fd = paths.open_below(self._top, path, os.O_PATH | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno in _GONE:
                    continue
                raise
            try:
                found = os.fstat(fd)
                yield from self._entry(fd, found, f"{self._name}/{path}")
            finally:
                os.close(fd)
            if stat.S_ISDIR(found.st_mode):
                todo.append(iter(self._names(path)))

    def _names(self, path: str) -> list[str]:
        """What is in a directory, as paths below the top."""
        try:
            fd = paths.open_below(self._top, path, _FOLDER)
        except OSError as error:
            if error.errno in _GONE:
                return []
            raise
        try:
            return [f"{path}/{name}" if path else name for name in sorted(os.listdir(fd))]
        finally:
            os.close(fd)

    def _entry(self, fd: int, found: os.stat_result, name: str) -> Iterator[bytes]:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return
        info = tarfile.TarInfo(name)
        info.type = kind
        info.mode = stat.S_IMODE(found.st_mode)
        info.uid, info.gid = found.st_uid, found.st_gid
        info.mtime = found.st_mtime_ns // 1_000_000_000
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink("", dir_fd=fd)
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        elif kind in (tarfile.REGTYPE, tarfile.DIRTYPE):
            info.pax_headers = _attributes(fd)
        if kind == tarfile.REGTYPE:
            if found.st_nlink > 1:
                first = self._linked.setdefault((found.st_dev, found.st_ino), name)
                if first != name:
                    info.type, info.linkname = tarfile.LNKTYPE, first
                    yield header(info)
                    return
            info.size = found.st_size
            yield from _file(fd, found, header(info))
        else:
            yield header(info)


def header(info: tarfile.TarInfo) -> bytes:
    """An entry's header, after a pax header for what does not fit it."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _attributes(fd: int) -> dict[str, str]:
    """File capabilities and users' extended attributes as pax records."""
    link = f"/proc/self/fd/{fd}"
    try:
        names = [n for n in os.listxattr(link) if n == "security.capability" or n.startswith("user.")]
        return {
            XATTR + name: os.getxattr(link, name).decode("utf-8", "surrogateescape")
            for name in names
            if "=" not in name
        }
    except OSError:  # a file system without them, or it has gone
        return {}


def _file(fd: int, found: os.stat_result, head: bytes) -> Iterator[bytes]:
    try:
        data = paths.reopen(fd, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOATIME)
    except OSError as error:
        if error.errno not in (*_GONE, errno.EPERM):
            raise
        data = paths.reopen(fd, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        yield head
        yield from _content(data, found)
    finally:
        os.close(data)


def _content(data: int, found: os.stat_result) -> Iterator[bytes]:
    """As many bytes as the header has said, zeros for holes and for what was cut off meanwhile."""
    size, sparse = found.st_size, found.st_blocks * 512 < found.st_size
    done = 0
    while done < size:
        stop = size
        if sparse:
            start, stop = _next_data(data, done, size)
            yield from _zeros(start - done)
            done = start
        while done < stop:
            piece = os.pread(data, min(PIECE, stop - done), done)
            if not piece:
                yield from _zeros(size - done)
                done = stop = size
            done += len(piece)
            yield piece
    yield bytes(-size % _BLOCK)


def _next_data(data: int, at: int, size: int) -> tuple[int, int]:
    """Where a sparse file has data again, and where that ends (lseek(2))."""
    try:
        start = min(os.lseek(data, at, os.SEEK_DATA), size)
        return start, min(os.lseek(data, start, os.SEEK_HOLE), size) if start < size else size
    except OSError as error:
        if error.errno == errno.ENXIO:  # holes up to the end
            return size, size
        return at, size  # a file system that cannot say


def _zeros(count: int) -> Iterator[bytes]:
    for start in range(0, count, PIECE):
        yield bytes(min(PIECE, count - start))
