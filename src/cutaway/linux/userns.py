"""User namespaces that nobody lives in: made for the sake of their maps, or visited to read those.

Both need a process inside for a moment. It is a fork of the caller that does nothing but wait, and it is
ended before the call returns; when the caller dies first, it sees its socket close and ends by itself.
"""

import _socket
import os

from cutaway.linux import libc, namespaces, smallfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

Map = list[tuple[int, int, int]]  # (inside, outside, how many)

_SIGKILL, _EIO = 9, 5


def make(uid_map: Map, gid_map: Map) -> int:
    """A new user namespace with these maps: a descriptor that keeps it alive. Raises OSError."""
    with _Visitor(None) as pid:
        namespaces.write_id_map(pid, "uid", uid_map)
        namespaces.write_id_map(pid, "gid", gid_map)
        return os.open(namespaces.file_of("user", pid), os.O_RDONLY | os.O_CLOEXEC)


def maps(fd: int) -> tuple[Map, Map]:
    """The uid and the gid map of a user namespace, the ids outside as the caller's own. Raises OSError."""
    if os.fstat(fd).st_ino == namespaces.inode("user"):  # setns(2) refuses one's own
        return map_of("self", "uid"), map_of("self", "gid")
    with _Visitor(fd) as pid:
        return map_of(pid, "uid"), map_of(pid, "gid")


def map_of(pid: int | str, which: str) -> Map:
    """The "uid" or "gid" map that a process lives under, the ids outside as ours. Raises OSError."""
    rows = [line.split() for line in smallfile.read(f"/proc/{pid}/{which}_map").splitlines()]
    return [(int(inside), int(outside), int(size)) for inside, outside, size in rows]


class _Visitor:
    """A process in a user namespace: in a new one, or in the one that a descriptor names."""

    __slots__ = ("end", "fd", "pid", "theirs")

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self.pid = 0
        kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        self.end, self.theirs = _socket.socketpair(_socket.AF_UNIX, kind)

    def __enter__(self) -> int:
        self.pid = namespaces.clone(namespaces.flag("user") if self.fd is None else 0)
        if self.pid == 0:
            self.end.close()
            _wait_inside(self.fd, self.theirs)
        self.theirs.close()
        code = int(self.end.recv(16) or _EIO)
        if code:
            self.__exit__()
            libc.fail(code, "setns into the user namespace")
        return self.pid

    def __exit__(self, *_: object) -> None:
        self.end.close()
        os.kill(self.pid, _SIGKILL)
        os.waitpid(self.pid, 0)


def _wait_inside(fd: int | None, end: "_socket.socket") -> "NoReturn":
    """The visitor's life: enter, say so (0, or the errno), stay until the other end is closed."""
    try:
        code = 0
        if fd is not None:
            try:
                namespaces.setns(fd, namespaces.flag("user"))
            except OSError as error:
                code = error.errno or _EIO
        end.send(str(code).encode())
        end.recv(1)
    finally:
        os._exit(0)
