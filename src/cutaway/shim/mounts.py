"""The root filesystem that a task request asks for: mount entries as containerd writes them.

An entry's options are mount(8)'s words; those the kernel has as flags become flags, the rest is the
filesystem's own data (source: mount(2), mount(8), containerd's `mount` package).
"""

import os

from cutaway.errors import CutawayError, InvalidArgument, NotFound, PermissionDenied, Unknown
from cutaway.linux import mounts as linux
from cutaway.linux import paths, smallfile
from cutaway.shim import overlays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# word -> (flag, whether it is set or cleared)
_FLAGS = {
    "async": (linux.MS_SYNCHRONOUS, False),
    "atime": (linux.MS_NOATIME, False),
    "bind": (linux.MS_BIND, True),
    "defaults": (0, True),
    "dev": (linux.MS_NODEV, False),
    "diratime": (linux.MS_NODIRATIME, False),
    "dirsync": (linux.MS_DIRSYNC, True),
    "exec": (linux.MS_NOEXEC, False),
    "lazytime": (linux.MS_LAZYTIME, True),
    "mand": (linux.MS_MANDLOCK, True),
    "noatime": (linux.MS_NOATIME, True),
    "nodev": (linux.MS_NODEV, True),
    "nodiratime": (linux.MS_NODIRATIME, True),
    "noexec": (linux.MS_NOEXEC, True),
    "nomand": (linux.MS_MANDLOCK, False),
    "norelatime": (linux.MS_RELATIME, False),
    "nostrictatime": (linux.MS_STRICTATIME, False),
    "nosuid": (linux.MS_NOSUID, True),
    "rbind": (linux.MS_BIND | linux.MS_REC, True),
    "relatime": (linux.MS_RELATIME, True),
    "remount": (linux.MS_REMOUNT, True),
    "ro": (linux.MS_RDONLY, True),
    "rw": (linux.MS_RDONLY, False),
    "strictatime": (linux.MS_STRICTATIME, True),
    "suid": (linux.MS_NOSUID, False),
    "sync": (linux.MS_SYNCHRONOUS, True),
}
_PROPAGATION = {
    "shared": linux.MS_SHARED,
    "rshared": linux.MS_SHARED | linux.MS_REC,
    "slave": linux.MS_SLAVE,
    "rslave": linux.MS_SLAVE | linux.MS_REC,
    "private": linux.MS_PRIVATE,
    "rprivate": linux.MS_PRIVATE | linux.MS_REC,
    "unbindable": linux.MS_UNBINDABLE,
    "runbindable": linux.MS_UNBINDABLE | linux.MS_REC,
}
# What the words of an entry may not be: they ask for a program's help (losetup, mkfs).
_HELPERS = ("loop", "X-containerd.")

_EINVAL, _EBUSY, _ENOENT, _EPERM = 22, 16, 2, 1


class Mount:
    """One entry: `target` is a path inside the root filesystem, "" for the root itself."""

    __slots__ = ("kind", "options", "source", "target")

    def __init__(self, kind: str, source: str, target: str, options: list[str]) -> None:
        self.kind = kind
        self.source = source
        self.target = target
        self.options = options


class Options:
    """An entry's options, sorted into what mount(2) takes."""

    __slots__ = ("data", "flags", "propagation")

    def __init__(self, words: list[str]) -> None:
        """Raises `InvalidArgument` for an option that needs a helper program."""
        self.flags = 0
        self.propagation = 0
        self.data: list[str] = []
        for word in words:
            if word in _FLAGS:
                flag, on = _FLAGS[word]
                self.flags = self.flags | flag if on else self.flags & ~flag
            elif word in _PROPAGATION:
                self.propagation |= _PROPAGATION[word]
            elif word.startswith(_HELPERS):
                raise InvalidArgument(f"mount option {word!r} is not supported by this shim")
            else:
                self.data.append(word)


def mount_all(entries: list[Mount], root: str) -> None:
    """Mount every entry, in order, on `root`; when one fails, none is left.

    Raises `InvalidArgument`, `NotFound`, `PermissionDenied` or `Unknown`, naming entry and reason.
    """
    for entry in entries:
        try:
            _mount(entry, root)
        except (OSError, CutawayError) as error:
            unmount_all(root)
            raise _told(entry, error) from None


def _told(entry: Mount, error: OSError | CutawayError) -> CutawayError:
    if isinstance(error, CutawayError):
        return error
    classes: dict[int | None, type[CutawayError]] = {
        _ENOENT: NotFound,
        _EINVAL: InvalidArgument,
        _EPERM: PermissionDenied,
    }
    what = f"failed to mount rootfs component {entry.source} ({entry.kind})"
    return classes.get(error.errno, Unknown)(f"{what}: {error.strerror or error}")


def _mount(entry: Mount, root: str) -> None:
    options = Options(entry.options)
    if not entry.target:
        _mount_at(entry, options, root)
        return
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target = paths.open_in_root(folder, entry.target)
        try:
            _mount_at(entry, options, f"/proc/self/fd/{target}")
        finally:
            os.close(target)
    finally:
        os.close(folder)


def _mount_at(entry: Mount, options: Options, target: str) -> None:
    data = ",".join(options.data)
    if overlays.is_long(entry.kind, data):
        overlays.mount(entry.source, target, options.flags, options.data)
    else:
        linux.mount(entry.source, target, entry.kind, options.flags, data or None)
    bind_readonly = linux.MS_BIND | linux.MS_RDONLY
    if options.flags & bind_readonly == bind_readonly:
        # A bind mount takes its flags only when it is remounted (mount(2), "Creating a bind mount").
        linux.mount(None, target, None, options.flags | linux.MS_REMOUNT)
    if options.propagation:
        linux.mount(None, target, None, options.propagation)


def unmount_all(root: str) -> str:
    """Unmount everything at and below `root`; returns why something stayed, in words.

    A mount that somebody still uses is detached: it goes when they do.
    """
    try:
        for point in _points(root):
            linux.umount(point)
    except OSError as error:
        if error.errno != _EBUSY:
            return str(error.strerror)
        try:
            for point in _points(root):
                linux.umount(point, linux.MNT_DETACH)
        except OSError as still:
            return str(still.strerror)
    return ""


def _points(root: str) -> "Iterator[str]":
    """The mount points at and below `root`, the innermost and the last mounted first."""
    name = os.fsencode(os.path.realpath(root))
    table = smallfile.read("/proc/self/mountinfo").rstrip(b"\n").split(b"\n")
    lines = [line.split(b" ", 5)[4] for line in table if name in linux.unescape(line)]
    found = [linux.unescape(point) for point in lines]
    return (os.fsdecode(p) for p in reversed(found) if p == name or p.startswith(name + b"/"))
