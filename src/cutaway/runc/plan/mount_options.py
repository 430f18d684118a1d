"""Mount options as data: what each name of a configuration means to the kernel.

Source: runtime-spec config.md ("Mounts", Linux mount options), mount(8). A name in none of the tables is
the file system's own option and is handed to it as it is.
"""

from cutaway.linux import mounts as m

# name -> (clear instead of set, flag of mount(2))
FLAGS = {
    "async": (True, m.MS_SYNCHRONOUS),
    "atime": (True, m.MS_NOATIME),
    "bind": (False, m.MS_BIND),
    "defaults": (False, 0),
    "dev": (True, m.MS_NODEV),
    "diratime": (True, m.MS_NODIRATIME),
    "dirsync": (False, m.MS_DIRSYNC),
    "exec": (True, m.MS_NOEXEC),
    "iversion": (False, m.MS_I_VERSION),
    "lazytime": (False, m.MS_LAZYTIME),
    "loud": (True, m.MS_SILENT),
    "mand": (False, m.MS_MANDLOCK),
    "noatime": (False, m.MS_NOATIME),
    "nodev": (False, m.MS_NODEV),
    "nodiratime": (False, m.MS_NODIRATIME),
    "noexec": (False, m.MS_NOEXEC),
    "noiversion": (True, m.MS_I_VERSION),
    "nolazytime": (True, m.MS_LAZYTIME),
    "nomand": (True, m.MS_MANDLOCK),
    "norelatime": (True, m.MS_RELATIME),
    "nostrictatime": (True, m.MS_STRICTATIME),
    "nosuid": (False, m.MS_NOSUID),
    "nosymfollow": (False, m.MS_NOSYMFOLLOW),
    "rbind": (False, m.MS_BIND | m.MS_REC),
    "relatime": (False, m.MS_RELATIME),
    "remount": (False, m.MS_REMOUNT),
    "ro": (False, m.MS_RDONLY),
    "rw": (True, m.MS_RDONLY),
    "silent": (False, m.MS_SILENT),
    "strictatime": (False, m.MS_STRICTATIME),
    "suid": (True, m.MS_NOSUID),
    "symfollow": (True, m.MS_NOSYMFOLLOW),
    "sync": (False, m.MS_SYNCHRONOUS),
}

# Attributes of a mount and of all mounts below it (mount_setattr(2), Linux 5.12).
RECURSIVE = {
    "rro": (False, m.MOUNT_ATTR_RDONLY),
    "rrw": (True, m.MOUNT_ATTR_RDONLY),
    "rnosuid": (False, m.MOUNT_ATTR_NOSUID),
    "rsuid": (True, m.MOUNT_ATTR_NOSUID),
    "rnodev": (False, m.MOUNT_ATTR_NODEV),
    "rdev": (True, m.MOUNT_ATTR_NODEV),
    "rnoexec": (False, m.MOUNT_ATTR_NOEXEC),
    "rexec": (True, m.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (False, m.MOUNT_ATTR_NODIRATIME),
    "rdiratime": (True, m.MOUNT_ATTR_NODIRATIME),
    "rrelatime": (False, 0),
    "rnorelatime": (True, 0),
    "rnoatime": (False, m.MOUNT_ATTR_NOATIME),
    "ratime": (True, m.MOUNT_ATTR_NOATIME),
    "rstrictatime": (False, m.MOUNT_ATTR_STRICTATIME),
    "rnostrictatime": (True, m.MOUNT_ATTR_STRICTATIME),
    "rnosymfollow": (False, m.MOUNT_ATTR_NOSYMFOLLOW),
    "rsymfollow": (True, m.MOUNT_ATTR_NOSYMFOLLOW),
}
_RECURSIVE_ATIME = frozenset({"rrelatime", "rnoatime", "rstrictatime", "ratime", "rnostrictatime"})

PROPAGATION = {
    "private": m.MS_PRIVATE,
    "rprivate": m.MS_PRIVATE | m.MS_REC,
    "slave": m.MS_SLAVE,
    "rslave": m.MS_SLAVE | m.MS_REC,
    "shared": m.MS_SHARED,
    "rshared": m.MS_SHARED | m.MS_REC,
    "unbindable": m.MS_UNBINDABLE,
    "runbindable": m.MS_UNBINDABLE | m.MS_REC,
}

COPY_UP = "tmpcopyup"
_PER_MOUNT = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC | m.MS_NOSYMFOLLOW | m.ATIME
ID_MAPPED = frozenset({"idmap", "ridmap"})


class MountOptions:
    """A mount's options, sorted by who takes them."""

    __slots__ = (
        "clear", "copy_up", "data", "flags", "id_map", "propagation", "recursive_clear", "recursive_set",
    )  # fmt: skip

    def __init__(self) -> None:
        self.flags = 0
        self.clear = 0
        self.propagation: list[int] = []
        self.recursive_set = 0
        self.recursive_clear = 0
        self.copy_up = False
        self.id_map = ""  # or one of ID_MAPPED, the last
        self.data: list[str] = []

    @property
    def bind(self) -> bool:
        return bool(self.flags & m.MS_BIND)

    @property
    def remount(self) -> bool:
        return bool(self.flags & m.MS_REMOUNT)

    @property
    def recursive(self) -> bool:
        return bool(self.flags & m.MS_REC)

    @property
    def readonly(self) -> bool:
        return bool(self.flags & m.MS_RDONLY)


def parse(options: list[str]) -> MountOptions:
    """Sort a mount's options; later ones win over earlier ones, as with mount(8)."""
    found = MountOptions()
    for name in options:
        if name in FLAGS:
            clear, flag = FLAGS[name]
            found.flags = found.flags & ~flag if clear else found.flags | flag
            found.clear = found.clear | flag if clear else found.clear & ~flag
        elif name in PROPAGATION:
            found.propagation.append(PROPAGATION[name])
        elif name in RECURSIVE:
            _recursive(found, name)
        elif name == COPY_UP:
            found.copy_up = True
        elif name in ID_MAPPED:
            found.id_map = name
        else:
            found.data += split(name)
    return found


def split(option: str) -> list[str]:
    """A file system's options, several of which may come as one text; commas in quotes are no limits,
    nor those behind a backslash (overlay's way to have one in a path). Quotes around a value go away."""
    parts, quoted, escaped = [""], False, False
    for char in option:
        if char == "," and not quoted and not escaped:
            parts.append("")
        elif char == '"' and not escaped:
            quoted = not quoted
        else:
            parts[-1] += char
        escaped = char == "\\" and not escaped
    return [part for part in parts if part]


def bind_attributes(options: MountOptions) -> tuple[int, int]:
    """What a bind mount's options set and clear, as attributes of mount_setattr(2).

    Without any option on flags the source's are kept; with one, all that is not asked for is cleared,
    but the atime setting, which only another one replaces: mount(2) with MS_REMOUNT | MS_BIND does so.
    """
    if not (options.flags | options.clear) & _PER_MOUNT:
        return 0, 0
    return exact_attributes(options.flags)


def exact_attributes(flags: int) -> tuple[int, int]:
    """What to set and what to clear for a mount to have exactly these flags of mount(2)."""
    wanted = flags & _PER_MOUNT
    clear = m.attributes(_PER_MOUNT & ~m.ATIME)
    if wanted & m.ATIME:
        clear |= m.MOUNT_ATTR_ATIME | m.MOUNT_ATTR_NODIRATIME
    return m.attributes(wanted), clear


def _recursive(found: MountOptions, name: str) -> None:
    clear, attribute = RECURSIVE[name]
    if clear:
        found.recursive_clear |= attribute
        found.recursive_set &= ~attribute
    else:
        found.recursive_set |= attribute
        found.recursive_clear &= ~attribute
    if name in _RECURSIVE_ATIME:  # one field: the kernel takes a new value only with all its bits cleared
        found.recursive_set = found.recursive_set & ~m.MOUNT_ATTR_ATIME | (0 if clear else attribute)
        found.recursive_clear |= m.MOUNT_ATTR_ATIME


def known() -> list[str]:
    """Every option name with a meaning of its own, sorted, for `features`."""
    return sorted([*FLAGS, *PROPAGATION, *RECURSIVE, *ID_MAPPED, COPY_UP])
