"""SELinux: whether it is there, and a file's label."""

import os

from cutaway.linux import libc

_ATTRIBUTE = "security.selinux"


def enabled() -> bool:
    """Whether the kernel's SELinux has a policy: its file system is mounted then."""
    return os.path.exists("/sys/fs/selinux/enforce")


def set_label(directory: int, label: str) -> None:
    """Label a directory, given by an O_PATH descriptor. Raises OSError."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.setxattr(fd, _ATTRIBUTE, label.encode() + b"\0")
    except OSError as error:
        libc.fail(error.errno or 0, f"set label {label}")
    finally:
        os.close(fd)
