"""Output into a logging program: `binary:///path/program?key=value&flag`.

The program gets the container's stdout on descriptor 3, its stderr on 4, and closes 5 when it is
ready (with `binary-v2://` it writes a byte first). Its environment names the container and nothing
else. Source: containerd's docs/runtime-v2, "Logging". It is to read until both streams end; one
that has not ended by itself when the task is deleted is asked to, and then made to.
"""

import os
import signal

from cutaway.errors import Unknown
from cutaway.shim.loop import BROKEN, READ, Event, wait_for
from cutaway.shim.stdio import ProcessIo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.launch import Child, Launcher
    from cutaway.shim.loop import Loop

_READY_SECONDS = 10.0
_TERM_SECONDS = 12.0  # containerd's shim gives its loggers as long


class LoggerIo(ProcessIo):
    """Pipes whose other ends belong to the program; the shim copies nothing."""

    def __init__(
        self, loop: "Loop", launcher: "Launcher", scheme: str, rest: str, namespace: str, container: str
    ) -> None:
        super().__init__()
        self._loop = loop
        self._launcher = launcher
        self._scheme = scheme
        program, _, query = rest.partition("?")
        self._argv = [program, *_arguments(query)]
        self._environment = {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace}
        self._child: Child | None = None
        self._theirs: list[int] = []

    async def prepare(self) -> None:
        """Start the program and wait until it is ready. Raises `NotFound`, `Unknown`, OSError."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        out_reader, out_writer = os.pipe2(os.O_CLOEXEC)
        err_reader, err_writer = os.pipe2(os.O_CLOEXEC)
        ready_reader, ready_writer = os.pipe2(os.O_CLOEXEC)
        self._theirs = [null, out_writer, err_writer]
        self.descriptors = (null, out_writer, err_writer)
        try:
            descriptors = (null, null, null, out_reader, err_reader, ready_writer)
            self._child = self._launcher.start(self._argv, descriptors, self._environment, survives=True)
        finally:
            for fd in (out_reader, err_reader, ready_writer):
                os.close(fd)
        self._child.ended.call(self.drained.set)
        await self._wait_ready(ready_reader)

    async def _wait_ready(self, ready: int) -> None:
        told = Event()
        self._loop.watch(ready, READ | BROKEN, lambda _: told.set())
        try:
            if not await wait_for(self._loop, told, _READY_SECONDS):
                raise Unknown(f"logging binary {self._argv[0]} was not ready after {_READY_SECONDS:g} s")
            if not os.read(ready, 1) and self._scheme == "binary-v2":
                raise Unknown("logging binary did not call ready (it may have crashed or exited prematurely)")
        finally:
            self._loop.forget(ready)
            os.close(ready)

    def started(self) -> None:
        self._close_theirs()  # so that the program sees the end when the container has closed its own

    def close(self) -> None:
        self._close_theirs()
        if self._child is not None and not self._child.ended.is_set:
            self._signal(signal.SIGTERM)
            self._loop.later(_TERM_SECONDS, lambda: self._signal(signal.SIGKILL))

    def _signal(self, number: int) -> None:
        if self._child is not None and not self._child.ended.is_set:
            os.kill(self._child.pid, number)  # a child that was not waited for: the pid is still its own

    def _close_theirs(self) -> None:
        theirs, self._theirs = self._theirs, []
        for fd in theirs:
            os.close(fd)


def _arguments(query: str) -> list[str]:
    """Keys and values one after the other, as containerd's shim passes them."""
    from urllib.parse import parse_qsl

    words: list[str] = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        words += [key, value]
    return words
