"""The console socket: how a terminal's master reaches whoever asked for the container.

The caller listens on a Unix socket; the runtime connects and sends one message, whose payload is the
name /dev/ptmx and whose SCM_RIGHTS holds the master (runc's docs/terminals.md).
"""

import _socket
import os
import sys

from cutaway.errors import Unavailable
from cutaway.linux import libc

_NAME = b"/dev/ptmx"


def connect(path: str) -> int:
    """A connected descriptor for the caller's console socket. Raises `Unavailable`."""
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        client.connect(path)
    except OSError as error:
        client.close()
        raise Unavailable(f"dial unix {path}: connect: {libc.reason(error)}") from error
    return client.detach()


def send_master(fd: int, master: int) -> None:
    """Send a terminal's master over a connected console socket. Raises OSError."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, os.dup(fd))
    try:
        rights = master.to_bytes(4, sys.byteorder)
        connection.sendmsg([_NAME], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    finally:
        connection.close()


def receive_master(connection: "_socket.socket") -> int:
    """The other side, for a runtime that is its own caller (`run` on a terminal). Raises `Unavailable`."""
    _, ancillary, _, _ = connection.recvmsg(len(_NAME), _socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int.from_bytes(data[:4], sys.byteorder)
    raise Unavailable("the container's process sent no terminal")
