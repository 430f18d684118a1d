"""A layer's entries made into files.

Everything is made by name relative to an open directory (`paths`), never through a link, as nobody but
root can read it until its owner, attributes and mode are set, in this order: changing the owner clears
set-id bits and capabilities, chmod last restores what the layer says. Times of directories come at the
very end, when nothing changes them any more.

A failure names the entry; what was made until then stays for whoever removes the snapshot.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from cutaway.containerd.snapshots import trees
from cutaway.containerd.unpack import paths, whiteouts
from cutaway.containerd.unpack.limits import Limits
from cutaway.containerd.unpack.paths import Tree
from cutaway.containerd.unpack.streams import Stream
from cutaway.containerd.unpack.tar import Entry, Kind, entries, show
from cutaway.containerd.unpack.times import DirectoryTimes
from cutaway.containerd.unpack.whiteouts import Whiteouts
from cutaway.errors import (
    CutawayError,
    DataLoss,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unknown,
)
from cutaway.faults import point

log = logging.getLogger("containerd.unpack")

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMATS = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}
_MAX_TIME_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Applied:
    """What an unpacked layer turned out to be."""

    diff_id: str
    size: int
    """Bytes of the tar stream."""
    entries: int


def apply(
    fd: int, root: Path, lowers: Sequence[Path] = (), *, overlay: bool = False, limits: Limits | None = None
) -> Applied:
    """Unpack the layer open as `fd` into `root`. Blocks.

    `overlay`: keep whiteouts as overlayfs understands them instead of removing things; `lowers` are then
    the layers below, whose directories lend their attributes to those this layer only implies.

    Raises `InvalidArgument`, `DataLoss`, `ResourceExhausted`, `PermissionDenied`, `Unknown`; each names
    the entry.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        tree = stack.enter_context(closing(Tree(root, lowers)))
        stream = stack.enter_context(closing(Stream(fd, limits.check_bytes)))
        applier = stack.enter_context(closing(_Applier(tree, stream, _whiteouts(tree, overlay))))
        count = 0
        for entry in entries(stream):
            count += 1
            limits.check_entries(count)
            applier.take(entry)
            point("containerd.unpack.entry-made")
        applier.finish()
        point("containerd.unpack.finished")
        return Applied(stream.finish(), stream.count, count)


def _whiteouts(tree: Tree, overlay: bool) -> Whiteouts:
    if overlay:
        return whiteouts.Overlay()
    with os.scandir(tree.root) as found:
        empty = next(found, None) is None
    return whiteouts.Nothing() if empty else whiteouts.Removing(tree.root)


class _Applier:
    def __init__(self, tree: Tree, stream: Stream, hidden: Whiteouts) -> None:
        self._tree = tree
        self._stream = stream
        self._hidden = hidden
        self._directories = DirectoryTimes()

    def close(self) -> None:
        self._directories.close()

    def take(self, entry: Entry) -> None:
        try:
            self._take(entry)
        except OSError as error:
            raise _refused(entry, error) from None

    def finish(self) -> None:
        """Set the times of directories that are still there."""
        flags = paths.DIRECTORY | os.O_NOFOLLOW
        for path, atime, mtime in self._directories.all():
            try:
                fd = paths.open_in_root(self._tree.root, path, flags)
            except OSError:
                continue  # a later entry replaced it
            try:
                os.utime(fd, ns=(atime, mtime))
            finally:
                os.close(fd)

    def _take(self, entry: Entry) -> None:
        parts = paths.parse(entry.name)
        if not parts:
            return  # the root is the snapshot's, not the layer's
        folder, name = self._tree.parent(parts), parts[-1]
        if name.startswith(whiteouts.PREFIX):
            self._hide(folder, name, entry)
            return
        try:
            self._make(folder, name, entry)
        except FileExistsError:
            if not self._is_directory(folder, name, entry):
                self._replace(folder, name, entry)
        if entry.kind is not Kind.FILE:
            _dress(folder, name, entry)
        if entry.kind is Kind.DIRECTORY:
            self._directories.add(b"/".join(parts), *_times(entry))
        self._hidden.made(folder, name)

    def _hide(self, folder: int, name: bytes, entry: Entry) -> None:
        if name == whiteouts.OPAQUE:
            self._hidden.opaque(folder)
        else:
            self._hidden.gone(folder, whiteouts.target(name, entry), entry)
        self._tree.forget()

    def _is_directory(self, folder: int, name: bytes, entry: Entry) -> bool:
        """Directories merge; everything else is replaced by what comes later."""
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return entry.kind is Kind.DIRECTORY and stat.S_ISDIR(found.st_mode)

    def _replace(self, folder: int, name: bytes, entry: Entry) -> None:
        was_hidden = whiteouts.is_device(os.stat(name, dir_fd=folder, follow_symlinks=False))
        # Also what a hard link is to lead to: one to itself fails, as it does in containerd and Docker.
        trees.remove(name, dir_fd=folder)
        self._make(folder, name, entry)
        if was_hidden and entry.kind is Kind.DIRECTORY and isinstance(self._hidden, whiteouts.Overlay):
            # A whiteout and then a directory of that name: what the layers below have in it stays hidden.
            inner = os.open(name, paths.DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                self._hidden.opaque(inner)
            finally:
                os.close(inner)

    def _make(self, folder: int, name: bytes, entry: Entry) -> None:
        match entry.kind:
            case Kind.FILE:
                self._file(folder, name, entry)
            case Kind.DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=folder)
            case Kind.SYMLINK:
                os.symlink(entry.link, name, dir_fd=folder)
            case Kind.HARDLINK:
                self._link(folder, name, entry)
            case _:
                device = os.makedev(*_device(entry)) if entry.kind is not Kind.FIFO else 0
                os.mknod(name, _FORMATS[entry.kind] | 0o600, device, dir_fd=folder)

    def _file(self, folder: int, name: bytes, entry: Entry) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            if entry.segments is None:
                self._copy(fd, entry, entry.stored)
            else:
                for offset, length in entry.segments:
                    os.lseek(fd, offset, os.SEEK_SET)
                    self._copy(fd, entry, length)
                os.ftruncate(fd, entry.size)
            os.fchown(fd, entry.uid, entry.gid)
            if entry.xattrs:
                _set_xattrs(fd, entry)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _copy(self, fd: int, entry: Entry, size: int) -> None:
        while size:
            data = self._stream.some(size)
            if not data:
                raise DataLoss(f"layer is truncated in {show(entry.name)}")
            size -= len(data)
            while data:
                data = data[os.write(fd, data) :]

    def _link(self, folder: int, name: bytes, entry: Entry) -> None:
        # Some builders write the target with a leading slash; it means the same root.
        target = paths.parse(entry.link.lstrip(b"/"), f"entry {show(entry.name)}: link to")
        if not target:
            raise InvalidArgument(f"layer entry {show(entry.name)} is a hard link to the root")
        source = self._tree.find(target)
        try:
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)


def _device(entry: Entry) -> tuple[int, int]:
    """Linux's device numbers have 12 and 20 bits."""
    if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
        raise InvalidArgument(
            f"layer entry {show(entry.name)} is device {entry.major}:{entry.minor}, which cannot be"
        )
    return entry.major, entry.minor


def _dress(folder: int, name: bytes, entry: Entry) -> None:
    """Give owner, attributes, mode and times to what is no new file."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    # Not for nothing: it would take a hard-linked file's capabilities, which its first entry has set.
    if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
        os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
    if entry.xattrs:
        _set_xattrs(b"/proc/self/fd/%d/%b" % (folder, name), entry)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, entry.mode, dir_fd=folder)
    os.utime(name, ns=_times(entry), dir_fd=folder, follow_symlinks=False)


def _set_xattrs(target: int | bytes, entry: Entry) -> None:
    for key, value in entry.xattrs.items():
        # trusted.* would let a layer speak to the kernel's overlayfs; containerd leaves it out too.
        if key.startswith(b"trusted."):
            log.warning("attribute %s of %s left out", show(key), show(entry.name))
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, key, value)
            else:
                os.setxattr(target, key, value, follow_symlinks=False)
        except OSError as error:
            # xattr(7): user.* is for files and directories only; a file system may know no attributes.
            special = key.startswith(b"user.") and entry.kind not in (Kind.FILE, Kind.DIRECTORY)
            if error.errno != errno.ENOTSUP and not (error.errno == errno.EPERM and special):
                raise
            log.warning("attribute %s of %s left out: %s", show(key), show(entry.name), error.strerror)


def _times(entry: Entry) -> tuple[int, int]:
    """Access and modification; what is before the epoch becomes the epoch, as in containerd."""
    mtime = entry.mtime_ns if 0 <= entry.mtime_ns <= _MAX_TIME_NS else 0
    latest = max(entry.atime_ns, entry.mtime_ns)
    return latest if 0 <= latest <= _MAX_TIME_NS else 0, mtime


def _refused(entry: Entry, error: OSError) -> CutawayError:
    """What the kernel said about an entry, in one line."""
    text = f"layer entry {show(entry.name)}: {error.strerror or error}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return ResourceExhausted(text)
        case errno.EPERM | errno.EACCES:
            return PermissionDenied(text)
        case errno.ENOENT if entry.kind is Kind.HARDLINK:
            return InvalidArgument(
                f"layer entry {show(entry.name)} links to {show(entry.link)}, which is not there"
            )
        case errno.ENOTDIR | errno.ELOOP | errno.ENAMETOOLONG | errno.EEXIST | errno.EINVAL | errno.ENOENT:
            return InvalidArgument(text)
    return Unknown(text)
