"""Bundles: a task's directory, as shims expect to find it.

STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/
    shim-binary-path    how to clean up after the task; the first file, so that no bundle lacks it
    config.json         the spec's bytes as the client sent them
    rootfs/             where the shim mounts the root filesystem
    work                a link to ROOT/io.containerd.runtime.v2.task/NAMESPACE/ID/
    log                 a FIFO that the shim logs to
    address             the shim's socket, written by the shim
    bootstrap.json      the same and the version of the task service, where that is not 2

A directory is removed under another name (.ID): whatever the daemon finds under a task's own name when it
starts again has not begun to go.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cutaway.containerd.tasks import usermap
from cutaway.containerd.tasks.unmount import unmount_all
from cutaway.errors import AlreadyExists
from cutaway.faults import point

PLUGIN = "io.containerd.runtime.v2.task"
BINARY = "shim-binary-path"
BOOTSTRAP = "bootstrap.json"


@dataclass(frozen=True)
class Bundle:
    """One task's directories. Making and removing block: call them on a worker."""

    state: Path
    root: Path
    namespace: str
    id: str

    @cached_property
    def path(self) -> Path:
        return self.state / PLUGIN / self.namespace / self.id

    @cached_property
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

    def create(self, spec: bytes, binary: str) -> None:
        """Make the directories. Raises `AlreadyExists`; a failure leaves nothing."""
        for parent in (self.path.parent, self.work.parent):
            parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            raise AlreadyExists(f"bundle {self.path}: already exists") from None
        try:
            self._fill(spec, binary)
        except BaseException:
            self.remove()
            raise

    def _fill(self, spec: bytes, binary: str) -> None:
        point("containerd.bundle.made")
        self.write(BINARY, binary.encode(), 0o600)
        point("containerd.bundle.binary-noted")
        _remove(self.work)
        self.work.mkdir(mode=0o711)
        (self.path / "rootfs").mkdir(mode=0o711)
        (self.path / "work").symlink_to(self.work)
        point("containerd.bundle.linked")
        os.mkfifo(self.log, 0o700)
        self.write("config.json", spec, 0o644)
        if group := usermap.root_group(spec):
            # The container's root is a user like any other out here, and has to come through to its rootfs.
            os.chown(self.path, -1, group)
            self.path.chmod(0o710)

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Whole or not at all. Not synced: a bundle lasts as long as the boot."""
        temporary = self.path / f".{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
        point("containerd.bundle.before-rename")
        temporary.rename(self.path / name)

    def inhabitants(self) -> list[int]:
        """Processes that work for this bundle in its directory: a shim, or its binary's `start`."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._houses(pid)]

    def _houses(self, pid: int) -> bool:
        try:
            if os.readlink(f"/proc/{pid}/cwd") != str(self.path):
                return False
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False  # it has ended
        # A shim that was forked bears what name it likes, cut off where its title has no room.
        return b"shim" in line or b"\0-id\0%b\0" % os.fsencode(self.id) in line

    def evict(self) -> None:
        """Kill a shim that cannot be talked to, before its place is cleared."""
        for pid in self.inhabitants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Unmount what a shim may have left and remove the directories; idempotent.

        Raises OSError when something stays mounted.
        """
        _empty_rootfs(self.path)
        point("containerd.bundle.unmounted")
        for directory in (self.work, self.path):  # the bundle last: it is what is found again
            _remove(directory)


def _empty_rootfs(bundle: Path) -> None:
    """Unmount the root filesystem: removing a bundle under a mount would delete the files of the snapshot."""
    rootfs = bundle / "rootfs"
    unmount_all(rootfs)
    with contextlib.suppress(FileNotFoundError):
        rootfs.rmdir()  # refused if it is mounted on after all


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        pass  # there is something in it, or it is not there
    else:
        return
    hidden = directory.with_name(f".{directory.name}")
    for path in (hidden, directory):
        with contextlib.suppress(FileNotFoundError):
            moved = path.rename(hidden)
            point("containerd.bundle.hidden")
            shutil.rmtree(moved)
            point("containerd.bundle.removed")


def existing(state: Path, root: Path) -> list[Bundle]:
    """What an earlier run of the daemon has left. What it was about to remove is removed on the way."""
    bundles = [Bundle(state, root, path.parent.name, path.name) for path in _entries(state)]
    kept = {bundle.work for bundle in bundles}
    for path in _entries(root):
        if path not in kept:  # a reboot clears STATE, but not ROOT
            _remove(path)
    return bundles


def _entries(top: Path) -> Iterator[Path]:
    """The directories of tasks below a directory of ours."""
    for path in sorted((top / PLUGIN).glob("*/*")):
        if path.is_symlink() or not path.is_dir():
            continue
        if path.name.startswith("."):
            _empty_rootfs(path)
            shutil.rmtree(path)
        else:
            yield path
