"""Bundles: a task's directory, as shims expect to find it.

STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/
    config.json         the spec's bytes as the client sent them
    rootfs/             where the shim mounts the root filesystem
    work                a link to ROOT/io.containerd.runtime.v2.task/NAMESPACE/ID/
    log                 a FIFO that the shim logs to
    address             the shim's socket, written by the shim
    shim-binary-path    written when the shim has started: how to clean up after it
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutaway.errors import AlreadyExists

PLUGIN = "io.containerd.runtime.v2.task"
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Bundle:
    """One task's directories. Making and removing block: call them on a worker."""

    state: Path
    root: Path
    namespace: str
    id: str

    @property
    def path(self) -> Path:
        return self.state / PLUGIN / self.namespace / self.id

    @property
    def work(self) -> Path:
        return self.root / PLUGIN / self.namespace / self.id

    @property
    def log(self) -> Path:
        return self.path / "log"

    def read(self, name: str) -> str:
        """A small file of the bundle, "" when it is not there."""
        try:
            return (self.path / name).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def create(self, spec: bytes) -> None:
        """Make the directories. Raises `AlreadyExists`; a failure leaves nothing."""
        for parent in (self.path.parent, self.work.parent):
            parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            raise AlreadyExists(f"bundle {self.path}: already exists") from None
        try:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(mode=0o711)
            (self.path / "rootfs").mkdir(mode=0o711)
            (self.path / "work").symlink_to(self.work)
            os.mkfifo(self.log, 0o700)
            (self.path / "config.json").write_bytes(spec)
        except BaseException:
            self.remove()
            raise

    def write_atomically(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.rename(self.path / name)

    def remove(self) -> None:
        """Unmount what a shim may have left and remove the directories; idempotent.

        Removing without unmounting would delete the files of the snapshot.
        """
        unmount_all(self.path / "rootfs")
        for directory in (self.path, self.work):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)


def unmount_all(target: Path) -> None:
    """Detach every mount stacked on a directory (umount2(2)). Raises OSError when the kernel refuses."""
    while _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):  # not a mount point; not there
        raise OSError(number, os.strerror(number), os.fspath(target))


def existing(state: Path, root: Path) -> Iterator[Bundle]:
    """What an earlier run of the daemon has left."""
    for namespace in sorted((state / PLUGIN).glob("*")):
        for path in sorted(namespace.glob("*")):
            if path.is_dir() and not path.is_symlink():
                yield Bundle(state, root, namespace.name, path.name)
