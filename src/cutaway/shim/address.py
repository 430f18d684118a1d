"""The shim's socket: where it is and how it comes and goes.

    /run/containerd/s/<sha256 of "CONTAINERD_SOCKET/NAMESPACE/GROUP">

Fixed, whatever the container service's folders are: a Unix socket's path may not exceed 107 bytes, and
containerd looks for sockets of dead shims there. containerd 2.4 may name another folder, which then stands
in the bundle's `socket-dir`. GROUP is the container's id unless it shares a shim.
"""

import os
import socket
import sys

from cutaway.errors import Unknown
from cutaway.linux import smallfile
from cutaway.linux.digest import sha256

FOLDER = "/run/containerd/s"
SCHEME = "unix://"

_FOLDER_FILE = "socket-dir"
_PF_EXITING = 0x4  # include/linux/sched.h

_BACKLOG = 128
_GROUP_LABELS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


def folder(bundle: str, wanted: str) -> str:
    """Where sockets are to be: `wanted`, noted in the bundle for `delete`, or the default."""
    if not wanted:
        return FOLDER
    smallfile.write(f"{bundle}/{_FOLDER_FILE}", wanted.encode(), 0o600)
    return wanted.rstrip("/")


def path_for(service: str, namespace: str, group: str, folder: str = FOLDER) -> str:
    """The socket's path for a container (or group) of a container service."""
    name = os.path.normpath(f"{service}/{namespace}/{group}")
    return f"{folder}/{sha256(name.encode()).hex()}"


def group_of(bundle: str, container: str) -> str:
    """The group that the bundle's annotations put the container in, or its own id."""
    try:
        text = smallfile.read(f"{bundle}/config.json")
    except FileNotFoundError:
        return container
    if not any(label.encode() in text for label in _GROUP_LABELS):
        return container
    import json

    try:
        annotations = json.loads(text).get("annotations") or {}
    except (ValueError, AttributeError, RecursionError):
        return container  # the runtime will tell what is wrong with it
    for label in _GROUP_LABELS:
        if isinstance(annotations, dict) and isinstance(annotations.get(label), str):
            return str(annotations[label])
    return container


def listen(path: str) -> "socket.socket | None":
    """A listening socket, for root alone; None when a living shim of the group listens already.

    The socket of a dead one is replaced. Raises `Unknown`.
    """
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    listener = _bind(path)
    if listener is None and not answers(path):
        remove(path)
        listener = _bind(path)
        if listener is None:
            raise Unknown(f"create new shim socket: {path} is taken again and again")
    return listener


def _bind(path: str) -> "socket.socket | None":
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        if error.errno == 98:  # EADDRINUSE
            return None
        # A path that is too long has no errno.
        raise Unknown(f"create new shim socket: listen unix {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def take_over(listener: "socket.socket") -> None:
    """In the process that will serve: be who listens, for those who ask the kernel (see `answers`)."""
    listener.listen(_BACKLOG)


def answers(path: str) -> bool:
    """Whether somebody listens who is not just ending.

    A killed process closes its descriptors one after the other; for a moment it has hung up on its
    clients and still takes new ones (PF_EXITING, 9th field of proc_pid_stat(5)). The kernel tells who has
    called listen(2). Where that process is gone and a second connection is taken all the same, it was the
    command that has left its socket to a daemon.
    """
    pid = _listener(path)
    if not pid:
        return pid == 0
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return not int(file.read().rpartition(b")")[2].split()[6]) & _PF_EXITING
    except OSError:
        return _listener(path) is not None


def _listener(path: str) -> int | None:
    """The process that listens, 0 for one of another pid namespace; None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.connect(path)
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    return int.from_bytes(credentials[:4], sys.byteorder)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_dead(bundle: str) -> None:
    """Remove the socket that a bundle's `address` names, unless a shim of the group still answers."""
    path = _read(f"{bundle}/address").removeprefix(SCHEME)
    folders = (FOLDER, _read(f"{bundle}/{_FOLDER_FILE}").rstrip("/"))
    if path and os.path.dirname(path) in folders and not answers(path):
        remove(path)


def _read(path: str) -> str:
    try:
        return os.fsdecode(smallfile.read(path))
    except FileNotFoundError:
        return ""
