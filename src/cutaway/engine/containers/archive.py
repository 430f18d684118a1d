"""`docker cp`: looking at, reading and writing a container's files, whatever state it is in.

Paths are a container's, and so is everything they lead through: they are resolved inside its root file
system by the kernel, never on the host (`root_tree`, `archive.paths`). Docker's rules for them: a link at
the end is not followed unless a slash or `/.` comes after it; the directory to extract to is always.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cutaway.archive import packing, paths, unpacking
from cutaway.archive.entries import Source
from cutaway.engine import userdb
from cutaway.engine.containers.model import Container
from cutaway.engine.containers.parts import Parts
from cutaway.engine.root_tree import Point, Root, open_tree
from cutaway.engine.runtime import TaskStatus
from cutaway.engine.threads import finished
from cutaway.errors import (
    Aborted,
    Cancelled,
    CutawayError,
    NotFound,
    PermissionDenied,
    Unknown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXIT_SECONDS: Final = 10.0
# Go's os.FileMode: what is not a permission is in the high bits.
_GO_KINDS: Final = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_BITS: Final = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@dataclass(frozen=True)
class PathStat:
    """What Docker tells of a path: the X-Docker-Container-Path-Stat header."""

    name: str
    size: int
    mode: int
    """As Go's os.FileMode has it."""
    mtime_ns: int
    link_target: str
    """Where a link leads in the end, as a path of the container; "" for anything else."""


class Tree:
    """A container's files while they are open. Its methods block: call them in a thread."""

    def __init__(self, container: Container, root: int, named: str, kept: ExitStack) -> None:
        self._container = container
        self._root = root
        self._kept = kept  # open as long as this is
        self._named = named  # the container, as the request has it

    def stat(self, path: str) -> PathStat:
        """Raises `NotFound` in Docker's words."""
        absolute = absolute_path(path)
        with self._refusing(path), self._item(absolute) as item:
            return self._stat(item, absolute)

    def pack(self, path: str) -> tuple[PathStat, Iterator[bytes]]:
        """What a path leads to as a tar file, under the path's last name."""
        absolute = absolute_path(path)
        with self._refusing(path):
            item = self._kept.enter_context(self._item(absolute))
            found = self._stat(item, absolute)
        return found, self._pieces(item, "" if found.name == "/" else found.name, path)

    def _pieces(self, item: int, name: str, path: str) -> Iterator[bytes]:
        with self._refusing(path):
            yield from packing.pack(item, name)

    def unpack(self, path: str, source: Source, *, keep_types: bool, as_user: bool) -> None:
        """Extract a tar file into a directory. Raises what Docker refuses, in its words."""
        with self._refusing(path):
            folder = paths.evaluate(self._root, absolute_path(path))
            fd = paths.open_in_root(self._root, folder)
            try:
                is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
            finally:
                os.close(fd)
            if not is_folder:
                raise Unknown("extraction point is not a directory")
            check_writable(self._container, folder)
            owner = self._owner() if as_user else None
            rules = unpacking.Rules(keep_types=keep_types, owner=owner)
            try:
                unpacking.unpack(source, self._root, folder, rules)
            except Cancelled:
                raise
            except CutawayError as error:  # dockerd has a program for it
                raise Unknown(f"Error processing tar file(exit status 1): {error}") from error

    def _owner(self) -> tuple[int, int] | None:
        user = self._container.config.user
        if not user:
            return None
        found = userdb.resolve(self._root, user)
        return found.uid, found.gid

    @contextmanager
    def _item(self, absolute: str) -> Iterator[int]:
        """A descriptor (O_PATH) of what a path leads to, a link at its end not followed."""
        above, _, name = absolute.rpartition("/")
        folder = paths.open_in_root(self._root, above, os.O_PATH | os.O_DIRECTORY)
        try:
            item = paths.open_below(folder, name, os.O_PATH | os.O_NOFOLLOW)
        finally:
            os.close(folder)
        try:
            yield item
        finally:
            os.close(item)

    def _stat(self, item: int, absolute: str) -> PathStat:
        found = os.fstat(item)
        target = paths.evaluate(self._root, absolute) if stat.S_ISLNK(found.st_mode) else ""
        mode = stat.S_IMODE(found.st_mode) & 0o777 | _GO_KINDS.get(stat.S_IFMT(found.st_mode), 0)
        for bit, theirs in _GO_BITS:
            mode |= theirs if found.st_mode & bit else 0
        return PathStat(base_name(absolute), found.st_size, mode, found.st_mtime_ns, target)

    @contextmanager
    def _refusing(self, path: str) -> Iterator[None]:
        """What the kernel says of a path, as Docker says it."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT:
                text = f"Could not find the file {path} in container {self._named}"
                raise NotFound(text) from None
            if error.errno == errno.ELOOP:
                raise Unknown(f"evalSymlinksInScope: too many links in {path}") from None
            text = f"lstat {path}: {(error.strerror or '').lower()}"
            if error.errno in (errno.EACCES, errno.EPERM):
                raise PermissionDenied(text) from None
            raise Unknown(text) from None


class Archiver:
    """Opens containers' files."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @asynccontextmanager
    async def open(self, container: Container, named: str = "") -> AsyncIterator[Tree]:
        """The container's files. One that does not run cannot be started meanwhile, as in Docker."""
        named = named or container.name
        for _ in range(3):
            if container.state.is_running:
                pidfd = await self._pidfd(container)
                if pidfd >= 0:
                    async with self._tree(container, Root(pidfd=pidfd), named) as tree:
                        os.close(pidfd)
                        yield tree
                    return
                await self._wait_for_end(container)
            async with container.lock:
                if container.state.is_running:
                    continue
                mounts = await self._parts.runtime.snapshot_mounts(container.id)
                async with self._tree(container, Root(mounts), named) as tree:
                    yield tree
                return
        raise Aborted(f"container {container.name} starts and ends all the time; try again")

    @asynccontextmanager
    async def _tree(self, container: Container, root: Root, named: str) -> AsyncIterator[Tree]:
        with ExitStack() as stack:
            opening = open_tree(root, self._points(container))
            descriptor = await finished(stack.enter_context, opening)
            yield Tree(container, descriptor, named, stack)

    async def _pidfd(self, container: Container) -> int:
        """A descriptor of the container's process, -1 if it has ended."""
        try:
            pidfd = os.pidfd_open(container.state.pid)
        except OSError:
            return -1
        task = await self._parts.runtime.task(container.id)
        # Asked afterwards: so the number was still that process's when the descriptor was opened.
        if task is None or task.pid != container.state.pid or task.status is TaskStatus.STOPPED:
            os.close(pidfd)
            return -1
        return pidfd

    async def _wait_for_end(self, container: Container) -> None:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        container.next_exit.add(ended)
        try:
            await asyncio.wait([ended], timeout=_EXIT_SECONDS if container.state.is_running else 0)
        finally:
            container.next_exit.discard(ended)

    def _points(self, container: Container) -> Sequence[Point]:
        """The container's volumes and bind mounts, and the engine's own files in /etc."""
        found = {
            point.destination: Point(point.source, point.destination, point.rw)
            for point in container.mounts
            if point.source
        }
        files = self._parts.files(container)
        for place, path in (
            ("/etc/resolv.conf", files.resolv_conf),
            ("/etc/hostname", files.hostname),
            ("/etc/hosts", files.hosts),
        ):
            if path.exists():
                found.setdefault(place, Point(str(path), place, not container.host.readonly_rootfs))
        return list(found.values())


def absolute_path(path: str) -> str:
    """A path from the container's root in its shortest form; a slash or `/.` at its end stays."""
    clean = posixpath.normpath(f"/{path}").replace("//", "/", 1)
    if base_name(path) == ".":
        clean = f"{clean.rstrip('/')}/."
    return f"{clean}/" if path.endswith("/") and not clean.endswith("/") else clean


def base_name(absolute: str) -> str:
    """The last name of a path, as Go's filepath.Base has it."""
    return absolute.rstrip("/").rpartition("/")[2] or "/"


def check_writable(container: Container, folder: str) -> None:
    """Raise what Docker says of a folder that cannot be extracted to."""
    within = [
        point
        for point in container.mounts
        if folder == point.destination or folder.startswith(f"{point.destination.rstrip('/')}/")
    ]
    if within:
        if not max(within, key=lambda point: len(point.destination)).rw:
            raise Unknown("mounted volume is marked read-only")
    elif container.host.readonly_rootfs:
        raise Unknown("container rootfs is marked read-only")
