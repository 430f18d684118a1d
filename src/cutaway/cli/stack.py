"""The two daemons of a stack: where they live, whether they run, starting and stopping them.

    DATA_ROOT/containerd              EXEC_ROOT/containerd/containerd.sock    cutaway-containerd
    DATA_ROOT                         EXEC_ROOT/cutaway.sock                  cutawayd

Who runs is asked of the sockets, not of files: the kernel tells who listens (SO_PEERCRED), which cannot
be stale. A pid file is the second source, for a daemon whose socket was removed, and is believed only
if that process is running the right program. Stacks with other roots do not see each other.
"""

import os
import select
import signal
import subprocess
import sys
import time
from socket import AF_UNIX, SO_PEERCRED, SOL_SOCKET, socket
from struct import unpack

from cutaway.errors import NotFound, Unavailable
from cutaway.trace import otlp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DATA_ROOT = "/var/lib/cutaway"
EXEC_ROOT = "/run/cutaway"
LOG_FOLDER = "/var/log/cutaway"
READY_SECONDS = 30.0
STOP_SECONDS = 30.0
TRY_EVERY_MS = 10


class Stack:
    """Paths and flags of one stack."""

    def __init__(
        self, data_root: str = DATA_ROOT, exec_root: str = EXEC_ROOT, engine_socket: str = ""
    ) -> None:
        self.data_root = os.path.abspath(data_root)
        self.exec_root = os.path.abspath(exec_root)
        self.engine_socket = engine_socket or f"{self.exec_root}/cutaway.sock"
        self.containerd_socket = f"{self.exec_root}/containerd/containerd.sock"
        self.logs = LOG_FOLDER if self.exec_root == EXEC_ROOT else f"{self.exec_root}/log"

    def containerd(self) -> "Daemon":
        root = f"{self.data_root}/containerd"
        state = f"{self.exec_root}/containerd"
        arguments = ["--root", root, "--state", state, "--address", self.containerd_socket]
        return Daemon("cutaway-containerd", self, self.containerd_socket, arguments)

    def engine(self, extra: "list[str] | None" = None) -> "Daemon":
        arguments = [
            "-H", f"unix://{self.engine_socket}",
            "--data-root", self.data_root,
            "--exec-root", self.exec_root,
            "-p", f"{self.exec_root}/cutawayd.pid",
            "--containerd", self.containerd_socket,
            *(extra or []),
        ]  # fmt: skip
        return Daemon("cutawayd", self, self.engine_socket, arguments)


class Daemon:
    """One program of a stack."""

    def __init__(self, name: str, stack: Stack, socket_path: str, arguments: list[str]) -> None:
        self.name = name
        self.stack = stack
        self.socket_path = socket_path
        self.arguments = arguments
        self.pidfile = f"{stack.exec_root}/{name}.pid"
        self.log = f"{stack.logs}/{name}.log"

    def pid(self) -> int:
        """The process that listens, or the one of the pid file if it is this program; 0 for none."""
        return listener(self.socket_path) or self._recorded()

    def _recorded(self) -> int:
        try:
            with open(self.pidfile, encoding="ascii") as file:
                pid = int(file.read().strip() or "0")
        except (OSError, ValueError):
            return 0
        return pid if pid > 1 and runs_program(pid, self.name, self.socket_path) else 0

    def start(self, answers: "Callable[[], bool]") -> bool:
        """Start it and wait until it answers; False if it ran already.

        Raises `Unavailable` with the end of its log when it does not come up; it is not left running then.
        """
        if answers():
            return False
        command = [find_program(self.name), *self.arguments]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=self._environment(),
                start_new_session=True,
            )  # fmt: skip
        try:
            self._wait(process, answers)
        except BaseException:
            process.kill()
            process.wait()
            raise
        self._record(process.pid)
        process.returncode = 0  # it outlives us: no "still running" warning when this object goes
        return True

    def _environment(self) -> dict[str, str]:
        """Ours, with the collector and with our programs' folder last on PATH."""
        folder = os.path.dirname(find_program(self.name))
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        endpoint = os.environ.get(otlp.ENDPOINT) or f"unix://{self.stack.exec_root}/otlp.sock"
        return {**os.environ, "PATH": f"{path}:{folder}", otlp.ENDPOINT: endpoint}

    def _wait(self, process: "subprocess.Popen[bytes]", answers: "Callable[[], bool]") -> None:
        deadline = time.monotonic() + READY_SECONDS
        watched = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            while not answers():
                if poll.poll(TRY_EVERY_MS):
                    raise Unavailable(
                        f"{self.name} ended at once with exit code {process.wait()}. {self._tail()}"
                    )
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{self.name} does not answer after {READY_SECONDS:g} s. {self._tail()}"
                    )
        finally:
            os.close(watched)

    def _tail(self) -> str:
        with open(self.log, errors="replace", encoding="utf-8") as file:
            last = [line.rstrip() for line in file.readlines()[-5:]]
        return "\n".join([f"The end of {self.log}:", *last])

    def _record(self, pid: int) -> None:
        """Write the pid file, unless the daemon keeps it itself."""
        if "-p" in self.arguments:
            return
        temporary = f"{self.pidfile}.new"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(str(pid))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.pidfile)

    def stop(self) -> int:
        """End it in good order, or with SIGKILL when that takes too long; returns its pid, 0 for none.

        The process is held by a pidfd from before the last look at it, so that no other process with
        the same number can be hit.
        """
        pid = self.pid()
        if not pid:
            return 0
        try:
            held = os.pidfd_open(pid)
        except ProcessLookupError:
            return 0
        try:
            if self.pid() != pid:
                return 0
            self._end(held)
        finally:
            os.close(held)
        if "-p" not in self.arguments and os.path.exists(self.pidfile):
            os.unlink(self.pidfile)
        return pid

    def _end(self, held: int) -> None:
        poll = select.poll()
        poll.register(held, select.POLLIN)
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
            try:
                signal.pidfd_send_signal(held, number)
            except ProcessLookupError:
                return
            if poll.poll(seconds * 1000):
                return


def listener(path: str) -> int:
    """The process that listens on a socket file, or 0."""
    with socket(AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return 0
        pid: int = unpack("3i", client.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[0]
        return pid


def runs_program(pid: int, name: str, socket_path: str) -> bool:
    """Whether a process runs this program for this socket."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(os.path.basename(word) == name.encode() for word in words) and any(
        socket_path.encode() in word for word in words
    )


def find_program(name: str) -> str:
    """The program of a name beside our own, else on PATH. Raises `NotFound`."""
    import shutil

    for folder in (os.path.dirname(os.path.realpath(sys.argv[0])), os.path.dirname(sys.executable)):
        candidate = os.path.join(folder, name)
        if os.access(candidate, os.X_OK):
            return candidate
    found = shutil.which(name)
    if found is None:
        raise NotFound(f"{name} is neither beside this program nor on PATH: is Cutaway installed completely?")
    return found
