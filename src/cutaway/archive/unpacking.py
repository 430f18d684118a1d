"""A tar stream's entries made into files below a directory of a root; archive and root may be hostile.

What Docker refuses is refused in its words: names, hard links and symbolic links that lead out of the
directory. Beyond that no path is trusted: each entry's directory is opened inside the root (`paths`), and
the entry is made relative to that descriptor, never through a link, as a new file.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import shutil
import stat
import tarfile
from dataclasses import dataclass
from typing import Final

from cutaway.archive import paths
from cutaway.archive.entries import Entry, Source, Stream, entries
from cutaway.errors import CutawayError, InvalidArgument, ResourceExhausted, Unknown

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMATS: Final = {
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
}
_HOLE: Final = bytes(64 << 10)  # so many zeros in a row are not written but left out


@dataclass(frozen=True)
class Rules:
    """How entries become files."""

    keep_types: bool = False
    """Refuse to put a directory in a file's place and the other way round."""
    owner: tuple[int, int] | None = None
    """Whose everything is to be; None for what the archive says."""
    own: bool = True
    """Whether to set owners at all."""
    renames: tuple[tuple[str, str], ...] = ()
    """In each name the first of the one is replaced by the other, one pair after the other."""


def unpack(source: Source, root: int, folder: str, rules: Rules) -> None:
    """Unpack a tar file into `folder`, an absolute path inside `root` that is a directory.

    What was made before a failure stays, as with Docker. Raises `InvalidArgument` for what the archive
    asks and must not, `ResourceExhausted` for a full disk, `Unknown` for anything else the kernel says.
    """
    stream = Stream(source)
    unpacker = _Unpacker(stream, root, folder.rstrip("/"), rules)
    try:
        for entry in entries(stream):
            unpacker.take(entry)
        unpacker.finish()
    finally:
        unpacker.close()


def quoted(text: str) -> str:
    """A name as Go's %q shows it."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)


class _Unpacker:
    def __init__(self, stream: Stream, root: int, folder: str, rules: Rules) -> None:
        self._stream = stream
        self._root = root
        self._folder = folder
        self._rules = rules
        self._times: dict[str, int] = {}
        self._last: tuple[str, int] | None = None

    def close(self) -> None:
        if self._last:
            os.close(self._last[1])
            self._last = None

    def take(self, entry: Entry) -> None:
        """Make one entry."""
        for old, new in self._rules.renames:
            old = "" if old == "/" else old
            entry.name = entry.name.replace(old, new, 1)
            if entry.kind == tarfile.LNKTYPE:
                entry.link = entry.link.replace(old, new, 1)
        path = posixpath.normpath(f"{self._folder}/{entry.name}")
        if not self._inside(path):
            raise InvalidArgument(
                f"{quoted(posixpath.normpath(entry.name))} is outside of {quoted(self._folder or '/')}"
            )
        try:
            self._take(entry, path)
        except OSError as error:
            raise _refused(path, error) from None

    def _inside(self, path: str) -> bool:
        return path == (self._folder or "/") or path.startswith(f"{self._folder}/")

    def _take(self, entry: Entry, path: str) -> None:
        if path == (self._folder or "/"):  # is there, and stays as it is
            if self._rules.keep_types and entry.kind != tarfile.DIRTYPE:
                raise InvalidArgument(
                    f"cannot overwrite directory {quoted(path)} with non-directory {quoted(path)}"
                )
            return
        above, _, name = path.rpartition("/")
        folder = self._parent(above)
        exists = self._make_way(entry, folder, name, path)
        if not exists:
            self._make(entry, folder, name, path)
        if entry.kind in (tarfile.LNKTYPE, tarfile.REGTYPE):
            return
        self._dress(entry, folder, name)
        if entry.kind == tarfile.DIRTYPE:
            self._times[path] = entry.mtime_ns

    def _parent(self, above: str) -> int:
        if self._last and self._last[0] == above:
            return self._last[1]
        fd = paths.make_directories(self._root, above)
        self.close()
        self._last = (above, fd)
        return fd

    def _make_way(self, entry: Entry, folder: int, name: str, path: str) -> bool:
        """Remove what is in the way; True if it is a directory that stays."""
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        was, becomes = stat.S_ISDIR(found.st_mode), entry.kind == tarfile.DIRTYPE
        if was and becomes:
            return True
        if self._rules.keep_types and was:
            raise InvalidArgument(
                f"cannot overwrite directory {quoted(path)} with non-directory {quoted(self._folder or '/')}"
            )
        if self._rules.keep_types and becomes:
            raise InvalidArgument(
                f"cannot overwrite non-directory {quoted(path)} with directory {quoted(self._folder or '/')}"
            )
        if entry.kind == tarfile.LNKTYPE and self._is_itself(entry, found):
            return True
        if was:
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
        return False

    def _make(self, entry: Entry, folder: int, name: str, path: str) -> None:
        match entry.kind:
            case tarfile.REGTYPE:
                self._file(entry, folder, name)
            case tarfile.DIRTYPE:
                os.mkdir(name, 0o700, dir_fd=folder)
            case tarfile.SYMTYPE:
                aim = posixpath.normpath(f"{posixpath.dirname(path)}/{entry.link}")
                if not self._inside(aim):
                    raise InvalidArgument(f"invalid symlink {quoted(path)} -> {quoted(entry.link)}")
                os.symlink(entry.link, name, dir_fd=folder)
            case tarfile.LNKTYPE:
                self._link(entry, folder, name, path)
            case _ if entry.kind in _FORMATS:
                device = os.makedev(entry.major, entry.minor) if entry.kind != tarfile.FIFOTYPE else 0
                os.mknod(name, _FORMATS[entry.kind] | 0o600, device, dir_fd=folder)
            case _:
                raise InvalidArgument(f"unhandled tar header type {ord(entry.kind)}")

    def _file(self, entry: Entry, folder: int, name: str) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            for offset, piece in self._stream.content(entry):
                _write(fd, piece, offset)
            os.ftruncate(fd, entry.size)
            if self._rules.own:
                os.fchown(fd, *self._owner(entry))
            for key, value in entry.xattrs.items():
                _set_xattr(fd, key, value)
            os.fchmod(fd, entry.mode)  # after the owner: changing that clears set-id bits
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _link(self, entry: Entry, folder: int, name: str, path: str) -> None:
        aim = self._aim(entry)
        if not self._inside(aim):
            raise InvalidArgument(f"invalid hardlink {quoted(aim)} -> {quoted(entry.link)}")
        above, _, target = aim.rpartition("/")
        source = paths.open_in_root(self._root, above, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            raise Unknown(f"link {aim} {path}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(source)

    def _aim(self, entry: Entry) -> str:
        return posixpath.normpath(f"{self._folder}/{entry.link}")

    def _is_itself(self, entry: Entry, found: os.stat_result) -> bool:
        """Whether a hard link is there already: removing it first could remove its own target."""
        above, _, target = self._aim(entry).rpartition("/")
        try:
            source = paths.open_in_root(self._root, above, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            return os.path.samestat(found, os.stat(target, dir_fd=source, follow_symlinks=False))
        except OSError:
            return False
        finally:
            os.close(source)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        return self._rules.owner or (entry.uid, entry.gid)

    def _dress(self, entry: Entry, folder: int, name: str) -> None:
        """Owner, attributes, mode and times of what is no regular file, by a descriptor of it."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != _FORMATS[entry.kind]:
                raise OSError(errno.EAGAIN, "replaced while it was made")
            link = f"/proc/self/fd/{fd}"
            if self._rules.own:
                os.chown(link, *self._owner(entry))
            if entry.kind == tarfile.DIRTYPE:
                for key, value in entry.xattrs.items():
                    _set_xattr(link, key, value)
            if entry.kind != tarfile.SYMTYPE:
                os.chmod(link, entry.mode)
            os.utime(link, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Set the times of directories, which nothing changes any more."""
        for path, time in self._times.items():
            try:
                fd = paths.open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue  # a later entry, or the container, has replaced it
            try:
                os.utime(fd, ns=(time, time))
            finally:
                os.close(fd)


def _write(fd: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        part = view[: len(_HOLE)]
        hole = len(part) == len(_HOLE) and part == _HOLE
        done = len(part) if hole else os.pwrite(fd, part, offset)
        view, offset = view[done:], offset + done


def _set_xattr(target: int | str, key: str, value: bytes) -> None:
    if key.startswith("trusted."):  # would let an archive speak to the kernel's overlayfs
        return
    try:
        os.setxattr(target, key, value)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def _refused(path: str, error: OSError) -> CutawayError:
    text = f"{path}: {(error.strerror or str(error)).lower()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(text)
    return Unknown(text)
