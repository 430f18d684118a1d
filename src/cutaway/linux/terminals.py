"""Pseudo-terminals: master and slave, both reached by descriptor, never by a path of the container."""

import fcntl
import os
import stat
import struct

from cutaway.errors import PermissionDenied

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441  # Linux 4.13: open the slave from the master, whatever lies at /dev/pts
_TIOCSWINSZ = 0x5414
_TIOCGWINSZ = 0x5413
_TIOCSCTTY = 0x540E
_TCGETS = 0x5401
_TCSETS = 0x5402
_ONLCR = 0o4
_TERMIOS = struct.Struct("IIII20s")  # the kernel's: flags of input, output, control, local; the characters
_PTMX = os.makedev(5, 2)


def open_pair(ptmx: int, own_fds: int) -> tuple[int, int]:
    """Master and slave from a descriptor (O_PATH) of a ptmx device; `own_fds` is the host's /proc/self/fd.

    Refuses what is not the multiplexer itself: a container that puts another file there would have
    the runtime open it (CVE-2025-52565). Raises `PermissionDenied`, OSError.
    """
    found = os.fstat(ptmx)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _PTMX:
        raise PermissionDenied("/dev/pts/ptmx is not the terminal multiplexer (character device 5:2)")
    master = os.open(str(ptmx), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=own_fds)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave


def resize(fd: int, height: int, width: int) -> None:
    """Set a terminal's size in rows and columns (TIOCSWINSZ). Raises OSError."""
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def size(fd: int) -> tuple[int, int]:
    """A terminal's rows and columns. Raises OSError when it is none."""
    height, width, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, _TIOCGWINSZ, bytes(8)))
    return height, width


def make_controlling(fd: int) -> None:
    """Make a terminal the controlling one of the caller's session (TIOCSCTTY). Raises OSError."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)


def keep_line_ends(fd: int) -> None:
    """Have a terminal pass newlines on as they are, not as carriage return and newline. Raises OSError."""
    inputs, outputs, *rest = _TERMIOS.unpack(fcntl.ioctl(fd, _TCGETS, bytes(_TERMIOS.size)))
    fcntl.ioctl(fd, _TCSETS, _TERMIOS.pack(inputs, outputs & ~_ONLCR, *rest))


def make_raw(fd: int) -> list[object]:
    """Have a terminal pass on each key as it is; output is still processed. What it was before.

    Raises OSError.
    """
    import termios
    import tty

    saved: list[object] = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    raw = termios.tcgetattr(fd)
    raw[1] |= termios.OPOST
    termios.tcsetattr(fd, termios.TCSANOW, raw)
    return saved


def restore(fd: int, attributes: list[object]) -> None:
    """Make a terminal what `make_raw` found. One that was hung up meanwhile is left."""
    import termios

    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, attributes)  # type: ignore[arg-type]
    except termios.error:
        return
