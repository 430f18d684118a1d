"""The seccomp agent: who decides about the system calls that a filter hands on (SCMP_ACT_NOTIFY).

It listens on the Unix stream socket that `linux.seccomp.listenerPath` names, and gets one message per
filter: the container process's state as JSON, with the listener's descriptor in SCM_RIGHTS (config-linux.md,
"Seccomp"; runtime.md, "The Container Process State").
"""

import _socket
import os
import sys

from cutaway.errors import FailedPrecondition, Unavailable
from cutaway.linux import libc, processes
from cutaway.oci import document
from cutaway.oci.runtime_spec import ContainerProcessState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Seccomp, State

_FD_NAME = "seccompFd"


class Agent:
    """An agent, and what it is told of the process besides its pid."""

    def __init__(self, config: "Seccomp", bundle: str, state: "State", init_pid: int = 0) -> None:
        self._path = os.path.join(bundle, config.listener_path or "")
        self._metadata = config.listener_metadata or None
        self._state = state
        self._init_pid = init_pid  # 0: the process is the container's init

    def send(self, pid: int, fd: int) -> None:
        """Take the listener `fd` out of process `pid` and give it to the agent.

        Raises `Unavailable` when there is no agent, `FailedPrecondition` when the descriptor cannot be had.
        """
        listener = _take(pid, fd)
        try:
            self._send(self._message(pid), listener)
        finally:
            os.close(listener)

    def _message(self, pid: int) -> bytes:
        self._state.pid = self._init_pid or pid
        told = ContainerProcessState(
            oci_version=self._state.oci_version,
            fds=[_FD_NAME],
            pid=pid,
            metadata=self._metadata,
            state=self._state,
        )
        return document.dumps(told).encode()

    def _send(self, message: bytes, listener: int) -> None:
        client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            client.connect(self._path)
        except OSError as error:
            client.close()
            raise Unavailable(
                "failed to connect with seccomp agent specified in the seccomp profile: "
                f"dial unix {self._path}: connect: {libc.reason(error)}"
            ) from None
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener.to_bytes(4, sys.byteorder))]
        try:
            sent = client.sendmsg([message], rights)
            while sent < len(message):
                sent += client.send(message[sent:])
        except OSError as error:
            raise Unavailable(f"cannot send seccomp fd to {self._path}: {libc.reason(error)}") from None
        finally:
            client.close()


def _take(pid: int, fd: int) -> int:
    try:
        pidfd = processes.pidfd_open(pid)
        try:
            return processes.pidfd_getfd(pidfd, fd)
        finally:
            os.close(pidfd)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot take the seccomp listener out of process {pid}: {libc.reason(error)}"
        ) from None
