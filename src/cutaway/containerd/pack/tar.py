"""A tar stream written the same way each time: ustar headers, and pax records only for what does not fit.

Times are whole seconds, as containerd writes them; a whiteout has none of its own and gets the epoch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterable, Iterator

from cutaway.containerd.pack.changes import Change, capability, read_link
from cutaway.containerd.unpack.header import BLOCK
from cutaway.containerd.unpack.paths import open_in_root
from cutaway.containerd.unpack.whiteouts import PREFIX

_CHUNK = 1 << 20
_END = bytes(2 * BLOCK)
_KINDS = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4",
          stat.S_IFDIR: b"5", stat.S_IFIFO: b"6"}  # fmt: skip


def layer(root: int, changes: Iterable[Change]) -> Generator[bytes, None, None]:
    """The layer that holds changes of the tree open as `root`; to be closed if it is not read to its end.

    Raises `OSError`.
    """
    writer = _Layer(root)
    for change in changes:
        yield from writer.parents(change.path)
        if change.stat is None:
            yield header(_whiteout(change.path), b"0")
        else:
            yield from writer.entry(change.path, change.stat)
    yield _END


class _Layer:
    def __init__(self, root: int) -> None:
        self._root = root
        self._folders: set[bytes] = {b""}
        self._linked: dict[tuple[int, int], bytes] = {}

    def parents(self, path: bytes) -> Iterator[bytes]:
        """Directories above a change, which give the layer their owner and mode."""
        above, _, _ = path.rpartition(b"/")
        if above in self._folders:
            return
        yield from self.parents(above)
        fd = open_in_root(self._root, above, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        yield from self.entry(above, found)

    def entry(self, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket, which means nothing without its program
        if kind == b"5":
            self._folders.add(path)
            yield header(path + b"/", kind, found)
            return
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and (first := self._linked.setdefault(key, path)) != path:
            yield header(path, b"1", found, link=first)
        elif kind == b"0":
            yield from self._file(path, found)
        else:
            yield header(path, kind, found, link=read_link(self._root, path) if kind == b"2" else b"")

    def _file(self, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        attributes = {}
        if value := capability(self._root, path):
            attributes[b"security.capability"] = value
        fd = open_in_root(self._root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield header(path, b"0", found, size=found.st_size, attributes=attributes)
            left = found.st_size
            while left and (data := os.read(fd, min(_CHUNK, left))):
                left -= len(data)
                yield data
        finally:
            os.close(fd)
        # A file that shrinks while it is read keeps the size that its header has said.
        for start in range(0, left, _CHUNK):
            yield bytes(min(_CHUNK, left - start))
        yield bytes(-found.st_size % BLOCK)


def _whiteout(path: bytes) -> bytes:
    above, slash, name = path.rpartition(b"/")
    return above + slash + PREFIX + name


def header(
    name: bytes,
    kind: bytes,
    found: os.stat_result | None = None,
    *,
    link: bytes = b"",
    size: int = 0,
    attributes: dict[bytes, bytes] | None = None,
) -> bytes:
    """An entry's header, with a pax header before it where it needs one."""
    mode, uid, gid = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) if found else (0, 0, 0)
    mtime = max(0, int(found.st_mtime)) if found else 0
    device = found.st_rdev if found and kind in (b"3", b"4") else 0
    records = {b"SCHILY.xattr." + key: value for key, value in (attributes or {}).items()}
    for key, value in ((b"path", name), (b"linkpath", link)):
        if len(value) > 100 or not value.isascii():
            records[key] = value
    for key, number, limit in ((b"uid", uid, 1 << 21), (b"gid", gid, 1 << 21), (b"size", size, 1 << 33)):
        if number >= limit:
            records[key] = b"%d" % number
    before = _pax(records) if records else b""
    return before + _block(
        name, kind, link, mode, uid % (1 << 21), gid % (1 << 21), size % (1 << 33), mtime, device
    )


def _pax(records: dict[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    return _block(b"pax", b"x", b"", 0o644, 0, 0, len(data), 0, 0) + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """`length key=value`, where the length counts its own digits too."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


def _block(
    name: bytes, kind: bytes, link: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, device: int
) -> bytes:
    block = bytearray(BLOCK)
    block[0 : len(name[:100])] = name[:100]
    block[100:148] = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link[:100])] = link[:100]
    block[257:265] = b"ustar\x0000"
    block[329:345] = b"%07o\0%07o\0" % (os.major(device), os.minor(device))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
