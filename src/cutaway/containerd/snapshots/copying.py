"""A tree copied with everything that makes it the same tree: owners, modes, times, xattrs, links, devices."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cutaway.containerd.snapshots.trees import Step, tour

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 8 << 20


def copy(source: Path, target: Path) -> None:
    """Copy what is in a directory into another, empty one, which gets the first one's attributes too."""
    with _Copier(target) as copier:
        for step in tour(source):
            copier.take(step)


class _Copier:
    def __init__(self, target: Path) -> None:
        self._folder = os.open(target, _DIRECTORY)
        # Names of inodes with several links, as paths below the root, which stays open for them.
        self._root = os.dup(self._folder)
        self._linked: dict[tuple[int, int], str] = {}
        self._path: list[str] = []

    def __enter__(self) -> _Copier:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)
        os.close(self._root)

    def take(self, step: Step) -> None:
        if not step.name:
            self._leave(step)
        elif stat.S_ISDIR(step.stat.st_mode):
            os.mkdir(step.name, 0o700, dir_fd=self._folder)
            self._move(os.open(step.name, _DIRECTORY, dir_fd=self._folder))
            self._path.append(step.name)
        elif not self._link(step):
            self._make(step)

    def _leave(self, step: Step) -> None:
        for name in os.listxattr(step.folder):
            os.setxattr(self._folder, name, os.getxattr(step.folder, name))
        os.fchown(self._folder, step.stat.st_uid, step.stat.st_gid)
        os.fchmod(self._folder, stat.S_IMODE(step.stat.st_mode))
        os.utime(self._folder, ns=(step.stat.st_atime_ns, step.stat.st_mtime_ns))
        if self._path:
            self._path.pop()
            self._move(os.open("..", _DIRECTORY, dir_fd=self._folder))

    def _move(self, folder: int) -> None:
        os.close(self._folder)
        self._folder = folder

    def _link(self, step: Step) -> bool:
        """Make one more link to what is copied already; False for an inode that comes first."""
        if step.stat.st_nlink < 2:
            return False
        key = (step.stat.st_dev, step.stat.st_ino)
        known = self._linked.setdefault(key, "/".join([*self._path, step.name]))
        if known == "/".join([*self._path, step.name]):
            return False
        os.link(known, step.name, src_dir_fd=self._root, dst_dir_fd=self._folder, follow_symlinks=False)
        return True

    def _make(self, step: Step) -> None:
        mode, name, found = step.stat.st_mode, step.name, step.stat
        if stat.S_ISREG(mode):
            self._copy_file(step)
            return
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=step.folder), name, dir_fd=self._folder)
        else:
            os.mknod(name, mode, found.st_rdev, dir_fd=self._folder)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=self._folder, follow_symlinks=False)
        _copy_xattrs(f"/proc/self/fd/{step.folder}/{name}", f"/proc/self/fd/{self._folder}/{name}")
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=self._folder)
        times = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=self._folder, follow_symlinks=False)

    def _copy_file(self, step: Step) -> None:
        source = os.open(step.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=step.folder)
        try:
            target = os.open(step.name, _NEW_FILE, 0o600, dir_fd=self._folder)
            try:
                while os.copy_file_range(source, target, _CHUNK):
                    pass
                os.fchown(target, step.stat.st_uid, step.stat.st_gid)
                for name in os.listxattr(source):
                    os.setxattr(target, name, os.getxattr(source, name))
                os.fchmod(target, stat.S_IMODE(step.stat.st_mode))
                os.utime(target, ns=(step.stat.st_atime_ns, step.stat.st_mtime_ns))
            finally:
                os.close(target)
        finally:
            os.close(source)


def _copy_xattrs(source: str, target: str) -> None:
    for name in os.listxattr(source, follow_symlinks=False):
        value = os.getxattr(source, name, follow_symlinks=False)
        os.setxattr(target, name, value, follow_symlinks=False)
