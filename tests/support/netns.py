"""A private network namespace for a stack of daemons.

A namespace belongs to a thread, and what a thread starts or opens inherits its namespace. So work in
one is done on a short-lived thread that enters it first; no launcher, no `ip`, no mount below
/run/netns, and nothing of the test's own process moves. The namespace lives as long as our
descriptor of it or a process in it, and its links, addresses and firewall rules end with it.

    with NetNs() as netns:
        netns.popen(["dockerd", ...])
        netns.call(urllib.request.urlopen, "http://127.0.0.1:5000/v2/")
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, ParamSpec, Self, TypeAlias, TypeVar

from support.process import kill_all

P = ParamSpec("P")
T = TypeVar("T")

Command: TypeAlias = Sequence[str | os.PathLike[str]]

CLONE_NEWNET: Final = 0x40000000
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 0x1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)


class NetNs:
    """A network namespace with nothing in it but loopback, which is up."""

    def __init__(self) -> None:
        self.name = f"cw-{os.getpid()}-{secrets.token_hex(3)}"
        self._fd = on_a_thread(_create)
        self._inode = os.fstat(self._fd).st_ino

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"NetNs({self.name})"

    @property
    def path(self) -> Path:
        """A file of the namespace, good while it is open: for `nsenter --net=PATH` or a runtime spec."""
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside the namespace; sockets that it opens stay in there."""

        def enter_and_call() -> T:
            _checked(_libc.setns(self._fd, CLONE_NEWNET), "setns")
            return function(*args, **kwargs)

        return on_a_thread(enter_and_call)

    def popen(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a process inside the namespace, as leader of a session of its own."""
        return self.call(
            subprocess.Popen,
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def run(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the namespace to its end and hand back its output as text."""
        process = self.call(
            subprocess.run,
            command,
            env=env,
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and process.returncode:
            words = " ".join(os.fspath(word) for word in command)
            raise AssertionError(f"{words}: exit code {process.returncode}\n{process.stdout}{process.stderr}")
        return process

    def free_port(self) -> int:
        """A TCP port that nobody listens on in here."""
        return self.call(_free_port)

    def processes(self) -> list[int]:
        """Whoever is in here."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._holds(entry)]

    def _holds(self, process: Path) -> bool:
        try:
            return (process / "ns/net").stat().st_ino == self._inode and int(process.name) != os.getpid()
        except OSError:
            return False  # it has ended

    def close(self) -> None:
        """Kill whoever is in here, with all their descendants, and give the namespace up."""
        if self._fd < 0:
            return
        kill_all(self.processes)
        os.close(self._fd)
        self._fd = -1


def on_a_thread(function: Callable[[], T]) -> T:
    """Call a function on a thread that ends with the call, so that what it does to its thread ends too."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()


def _create() -> int:
    """Move the calling thread to a new namespace and return a descriptor of it."""
    _checked(_libc.unshare(CLONE_NEWNET), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _checked(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
