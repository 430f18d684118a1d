"""Overlays of more layers than mount(2) has room for: it takes one page of data, some forty layers of paths.

Two ways, as far as they go. The layers' common folder is made the current one and cut off, as containerd
does; with short names that is good for a few hundred. Beyond that the layers are given one by one
(fsconfig(2) with `lowerdir+`, Linux 6.7), up to the kernel's 500. This process has one thread, so nobody
notices the change of folder.
"""

import os

from cutaway.errors import InvalidArgument
from cutaway.linux import mounts as linux

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOWER = "lowerdir="


def is_long(kind: str, data: str) -> bool:
    """Whether a mount's data needs one of the ways here."""
    return kind == "overlay" and len(os.fsencode(data)) >= _PAGE


def mount(source: str, target: str, flags: int, data: list[str]) -> None:
    """Mount an overlay whose `data` exceeds a page. `target` is an absolute path.

    Raises `InvalidArgument` when the kernel cannot take so many, OSError.
    """
    lower = next((word for word in data if word.startswith(_LOWER)), _LOWER)
    layers = lower.removeprefix(_LOWER).split(":")
    others = [word for word in data if word is not lower]
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        names = _shorten(layers)
        text = ",".join([*others, _LOWER + ":".join(names)])
        if len(os.fsencode(text)) < _PAGE:
            linux.mount(source, target, "overlay", flags, text)
        else:
            _mount_one_by_one(source, target, flags, others, names)
    finally:
        os.fchdir(here)
        os.close(here)


def _shorten(layers: list[str]) -> list[str]:
    """Change to the folder that all layers lie in; returns their names there."""
    if not all(os.path.isabs(layer) for layer in layers):
        return layers
    common = os.path.commonpath(layers)
    os.chdir(common)
    return [os.path.relpath(layer, common) for layer in layers]


def _mount_one_by_one(source: str, target: str, flags: int, others: list[str], names: list[str]) -> None:
    data = [*others, *(f"lowerdir+={name}" for name in names)]
    try:
        tree = linux.filesystem("overlay", source, flags, data, shown=target)
    except OSError as error:
        # EINVAL is both a kernel that does not know the option, and one layer too many.
        raise InvalidArgument(
            f"overlay of {len(names)} layers: their paths exceed the {_PAGE} bytes of mount(2), and the "
            f"kernel does not take them one by one (Linux 6.7, at most 500): {os.strerror(error.errno or 0)}"
        ) from None
    try:
        place = os.open(target, os.O_PATH | os.O_CLOEXEC)
        try:
            linux.move_mount(tree, place, shown=target)
        finally:
            os.close(place)
    finally:
        os.close(tree)
