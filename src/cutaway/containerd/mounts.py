"""Mounts as they cross the seam, and the few system calls the daemon itself makes with them.

Only unpacking into something that is neither an overlay's upper directory nor a bind mounts anything
here; containers' mounts are made by their shims.
"""

from __future__ import annotations

import ctypes
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cutaway.errors import InvalidArgument
from cutaway.faults import point

log = logging.getLogger("containerd.mounts")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)

# mount(2), umount2(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC = 32, 4096, 16384
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

_FLAGS = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC,
          "bind": MS_BIND, "rbind": MS_BIND | MS_REC, "rw": 0, "defaults": 0}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """What a client or shim is to mount (containerd.types.Mount)."""

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""

    def option(self, name: str) -> str:
        """The value of an option `name=value`, or ""."""
        prefix = f"{name}="
        return next((one[len(prefix) :] for one in self.options if one.startswith(prefix)), "")


def read_only(mount: Mount) -> Mount:
    """The same tree, so that looking at it changes nothing.

    An overlay's upper directory becomes its topmost lower one: two overlays must not share an upper.
    """
    if mount.type == "overlay" and (upper := mount.option("upperdir")):
        kept = [one for one in mount.options if not one.startswith(("upperdir=", "workdir=", "lowerdir="))]
        return Mount("overlay", mount.source, (*kept, f"lowerdir={upper}:{mount.option('lowerdir')}"))
    return Mount(
        mount.type, mount.source, (*(one for one in mount.options if one != "rw"), "ro"), mount.target
    )


@contextmanager
def mounted(mounts: Sequence[Mount], folder: Path) -> Iterator[Path]:
    """Mount all of them, one over the other, on a fresh directory below `folder`, for a while.

    Raises `OSError` that names what was refused, `InvalidArgument` for a mount that has no sense.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = Path(tempfile.mkdtemp(prefix="mount-", dir=folder))
    done = 0
    point("containerd.mounts.directory-made")
    try:
        for one in mounts:
            _mount(one, target)
            done += 1
        point("containerd.mounts.mounted")
        yield target
    finally:
        for _ in range(done):
            _check(_libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW), f"unmount {target}")
        point("containerd.mounts.unmounted")
        target.rmdir()


def clear(folder: Path) -> None:
    """After a crash: unmount what `mounted` has left below a folder, and remove its directories."""
    for target in folder.glob("mount-*"):
        log.info("unmounting %s, which an earlier run has left", target)
        while _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
            pass
        try:
            target.rmdir()
        except OSError as error:
            log.error("%s stays: %s", target, error.strerror)


def _mount(mount: Mount, target: Path) -> None:
    if mount.target not in ("", "/"):
        raise InvalidArgument(f"mount {mount.source} has target {mount.target}; only the root is known")
    flags, data = 0, []
    for option in mount.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            data.append(option)
    where = os.fsencode(target)
    words = f"mount {mount.type} {mount.source} on {target} with {','.join(mount.options)}"
    source, kind = os.fsencode(mount.source), os.fsencode(mount.type)
    _check(_libc.mount(source, where, kind, flags, ",".join(data).encode()), words)
    if flags & MS_BIND and flags & MS_RDONLY:
        # A bind takes no other flag at first: mount(2), "Creating a bind mount".
        remount = flags & ~MS_REC | MS_REMOUNT
        if _libc.mount(None, where, None, remount, None) < 0:
            number = ctypes.get_errno()
            _libc.umount2(where, UMOUNT_NOFOLLOW | MNT_DETACH)
            raise OSError(number, f"{words} (read-only): {os.strerror(number)}")


def _check(result: int, words: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{words}: {os.strerror(number)}")
