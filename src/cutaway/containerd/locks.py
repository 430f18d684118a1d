"""One daemon for one root, and one for one socket."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.faults import point


class RootLock:
    """Held as long as the daemon lives; the kernel gives it up when the daemon dies, however it dies."""

    def __init__(self, root: Path) -> None:
        """Raises `FailedPrecondition` at once when another daemon has this root."""
        path = root / "lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError:
            raise PermissionDenied(f"{path} cannot be opened: permission denied; run as root") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise FailedPrecondition(
                f"another cutaway-containerd (pid {holder or 'unknown'}) uses {root}: "
                "stop it, or choose another --root"
            ) from None
        os.ftruncate(self._fd, 0)
        point("containerd.lock.taken")
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def clear_socket(path: str) -> None:
    """Take away a socket that a dead daemon has left. Raises `FailedPrecondition` for a live one."""
    if not os.path.lexists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
        except OSError as error:
            raise FailedPrecondition(f"{path} is in the way: {error.strerror or error}") from None
    raise FailedPrecondition(f"another program listens on {path}: stop it, or choose another --address")
