"""NOTIFY_SOCKET: telling systemd that the program in the container is ready (sd_notify(3)).

The container gets a socket of its own, in a directory of the host's that is bound at /run/notify; from it
READY= is passed on, with the MAINPID that the host knows, and nothing else: what the program says of
itself is not the host's to believe.
"""

import _socket
import os
import select
import sys

from cutaway.errors import FailedPrecondition
from cutaway.linux import libc, processes
from cutaway.oci.runtime_spec import Mount
from cutaway.runc.process.parent import ParentStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Spec
    from cutaway.runc.plan.step import Here
    from cutaway.runc.state import Container

ENVIRONMENT = "NOTIFY_SOCKET"
DIRECTORY = "notify"  # in the container's own
NAME = "notify.sock"
_INSIDE = "/run/notify"
_LARGEST = 4096
_BARRIER_MS = 30_000


def set_up(spec: "Spec", container: "Container") -> None:
    """Have a container see the socket's directory and know its name, if the caller has a socket itself."""
    if not os.environ.get(ENVIRONMENT) or spec.process is None:
        return
    source = os.path.join(container.directory, DIRECTORY)
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    spec.mounts = [*spec.mounts, Mount(destination=_INSIDE, source=source, options=options)]
    spec.process.env = [*spec.process.env, f"{ENVIRONMENT}={_INSIDE}/{NAME}"]


class MakeDirectory(ParentStep):
    """Make the directory of the container's notify socket. It goes with the container's own."""

    __slots__ = ()
    group = "state"

    def describe(self) -> str:
        return f"make {self.making.container.directory}/{DIRECTORY}"

    def command(self) -> str:
        return f"mkdir {self.making.container.directory}/{DIRECTORY}"

    def execute(self, here: "Here") -> None:
        path = os.path.join(self.making.container.directory, DIRECTORY)
        os.mkdir(path)
        os.chmod(path, 0o755)  # whatever the umask


def listen(container: "Container") -> "Proxy | None":
    """The container's socket, bound before its program starts; None when nobody waits for its word.

    Raises `FailedPrecondition`, for a container that was created without NOTIFY_SOCKET too.
    """
    host = os.environ.get(ENVIRONMENT)
    return Proxy(container, host) if host else None


class Proxy:
    """The container's socket, and the host's that its word goes to."""

    def __init__(self, container: "Container", host: str) -> None:
        self._host = host
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        path = os.path.join(container.directory, DIRECTORY, NAME)
        try:
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # through the descriptor: a socket's address has 107 bytes, an id may have 1024
                self._socket.bind(f"/proc/self/fd/{folder}/{NAME}")
                os.chmod(f"/proc/self/fd/{folder}/{NAME}", 0o777)
            finally:
                os.close(folder)
        except OSError as error:
            self._socket.close()
            reason = libc.words(error.errno or 0)
            raise FailedPrecondition(f"listen unixgram {path}: bind: {reason}") from None

    def forward(self, pid: int, main_pid: int) -> None:
        """Wait until the program is ready, or process `pid` has ended; then tell the host, of `main_pid`."""
        try:
            ready = self._wait(pid)
            if ready:
                self._tell(ready, main_pid)
        finally:
            self._socket.close()

    def _wait(self, pid: int) -> bytes:
        try:
            pidfd = processes.pidfd_open(pid)
        except OSError:
            return self._read()
        try:
            poller = select.poll()
            poller.register(self._socket.fileno(), select.POLLIN)
            poller.register(pidfd, select.POLLIN)
            while True:
                events = {fd for fd, _ in poller.poll()}
                if ready := self._read():
                    return ready
                if pidfd in events:
                    return b""
        finally:
            os.close(pidfd)

    def _read(self) -> bytes:
        """The line that says READY, among the messages that are there."""
        while True:
            try:
                data = self._socket.recv(_LARGEST, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return b""
            for line in data.split(b"\n"):
                if line.startswith(b"READY="):
                    return line

    def _tell(self, ready: bytes, main_pid: int) -> None:
        """READY and MAINPID, and wait until they are read: the sender must live until systemd has looked."""
        host = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            host.connect("\0" + self._host[1:] if self._host.startswith("@") else self._host)
            host.send(ready + b"\n")
            host.send(b"MAINPID=%d\n" % main_pid)
            _barrier(host)
        except OSError as error:
            reason = libc.words(error.errno or 0)
            raise FailedPrecondition(f"dial unixgram {self._host}: connect: {reason}") from None
        finally:
            host.close()


def _barrier(host: "_socket.socket") -> None:
    """sd_notify_barrier(3): the end of a pipe that the reader closes; who does not know that, drops it."""
    reader, writer = os.pipe()
    try:
        rights = writer.to_bytes(4, sys.byteorder)
        host.sendmsg([b"BARRIER=1"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        os.close(writer)
        writer = -1
        poller = select.poll()
        poller.register(reader, select.POLLHUP)
        poller.poll(_BARRIER_MS)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
