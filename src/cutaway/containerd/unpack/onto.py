"""A layer unpacked onto what a snapshot's mounts show."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from cutaway.containerd.mounts import Mount, mounted
from cutaway.containerd.unpack.apply import Applied, apply
from cutaway.errors import InvalidArgument

_libc = ctypes.CDLL(None, use_errno=True)


def unpack_onto(fd: int, mounts: Sequence[Mount], folder: Path, *, sync: bool) -> Applied:
    """Unpack the layer that a descriptor reads. Blocks. Raises classes of `cutaway.errors`, `OSError`.

    Where the mounts show a plain directory in the end, that is written to, and nothing is mounted;
    otherwise they are mounted for the moment below `folder`.
    """
    if len(mounts) == 1:
        only = mounts[0]
        upper, lowers = only.option("upperdir"), only.option("lowerdir")
        if only.type == "overlay" and upper:
            below = [Path(one) for one in lowers.split(":") if one]
            return _apply(fd, Path(upper), below, overlay=True, sync=sync)
        if only.type == "bind" and "ro" not in only.options:
            return _apply(fd, Path(only.source), (), overlay=False, sync=sync)
    if not mounts:
        raise InvalidArgument("a layer needs a mount to be unpacked into: invalid argument")
    with mounted(mounts, folder) as target:
        return _apply(fd, target, (), overlay=False, sync=sync)


def _apply(fd: int, root: Path, lowers: Sequence[Path], *, overlay: bool, sync: bool) -> Applied:
    done = apply(fd, root, lowers, overlay=overlay)
    if sync:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(folder) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(root))
        finally:
            os.close(folder)
    return done
