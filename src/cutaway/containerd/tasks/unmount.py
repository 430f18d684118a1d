"""Unmounting, which is all that the daemon itself does with a task's mounts; the shim makes them."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

# umount2(2)
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def unmount_all(target: Path) -> None:
    """Detach every mount stacked on a directory. Raises OSError when the kernel refuses."""
    while _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):  # not a mount point; not there
        raise OSError(number, os.strerror(number), os.fspath(target))
