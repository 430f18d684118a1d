"""Where the API listens: Unix sockets named as dockerd names them with `-H`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cutaway.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unimplemented

_MODE: Final = 0o660
_PATH_MAX: Final = 107  # sun_path holds 108 bytes with the final NUL (unix(7))
BACKLOG: Final = 512


Listener = socket.socket


def bind_all(hosts: Iterable[str]) -> list[Listener]:
    """Sockets for every host, listening; none is left open when one of them fails."""
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            sockets.append(bind(host))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def bind(host: str) -> socket.socket:
    """A listening socket for `unix:///path`, owner root, mode 0660.

    Raises `InvalidArgument` for a host that is no such thing, `FailedPrecondition` if it is in use.
    """
    path = socket_path(host)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # The mode must hold from the first moment: whoever may connect is root on this machine.
    before = os.umask(0o777 & ~_MODE)
    try:
        listener.bind(os.fspath(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        kind = PermissionDenied if error.errno == errno.EACCES else FailedPrecondition
        raise kind(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def socket_path(host: str) -> Path:
    """The path in a `-H` value, or why it cannot be served."""
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = ("unix", host) if host.startswith("/") else ("tcp", host)
    if scheme == "tcp":
        raise InvalidArgument(
            f"-H {host}: a TCP port is root on this machine for whoever reaches it and is only served with "
            "mutual TLS, which this version does not have; listen on unix:///path and reach it by ssh"
        )
    if scheme == "fd":
        raise Unimplemented(f"-H {host}: socket activation is not supported; use unix:///path")
    if scheme != "unix" or not rest.startswith("/"):
        raise InvalidArgument(f"-H {host}: expected unix:///absolute/path")
    if len(os.fsencode(rest)) > _PATH_MAX:
        raise InvalidArgument(f"-H {host}: a socket's path has at most {_PATH_MAX} bytes")
    return Path(rest)


def _remove_stale(path: Path) -> None:
    """Remove what a crashed daemon left; a socket on which someone answers is refused."""
    if not path.is_socket():
        if path.exists():
            raise FailedPrecondition(f"{path} exists and is not a socket; remove it or choose another -H")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FailedPrecondition(f"{path}: {error.strerror}") from None
        else:
            raise FailedPrecondition(f"another daemon listens on {path}; stop it or choose another -H")


def close(host: str, listener: Listener) -> None:
    """Stop listening and take the socket's file away."""
    listener.close()
    socket_path(host).unlink(missing_ok=True)
