"""Starting our own shim by fork: the daemon's end of the zygote's socket.

The zygote is a process of one thread that has the shim's code imported; it forks on request. What the
forked child gets is what an exec would give it: the same arguments, environment, directory and standard
streams. So this is an accelerator and nothing else; without it the shim is executed.

    request   {"id": 1, "argv": [...], "env": {...}, "cwd": "..."} and three descriptors (SCM_RIGHTS)
    replies   {"id": 1, "pid": 4711} once forked, {"id": 1, "exit": 0} once it has ended,
              {"id": 1, "error": "..."} for a request that it will not fork for

A zygote that dies takes the answers to what it was asked with it. Such a request fails and is not repeated
in any form: the shim may be running. The next one goes to a new zygote, and if zygotes do not live, to exec.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from cutaway.containerd import interpreter, open_files
from cutaway.errors import Unavailable
from cutaway.faults import point

log = logging.getLogger("containerd.zygote")

MODULE = "cutaway.shim.zygote"
MAX_REPLY = 4096

# A zygote that has ended of itself within this many seconds is not replaced: the next would do no better.
MIN_LIFE = 5.0

CLOSE_SECONDS = 2.0


class ZygoteEnded(Unavailable):
    """It has died over a request, which may have been carried out or not."""


class Zygote:
    """The forking process. Starts are concurrent; the process ends when this end is closed."""

    def __init__(self) -> None:
        """Start the process. What hinders it is logged; `usable` tells."""
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[int, asyncio.Future[int | None]] = {}
        self._number = 0
        self._begun = 0.0
        self._closing = False
        self._interpreter = interpreter.sealed_copy()
        self._begin()

    @property
    def pid(self) -> int:
        """The process, 0 for none."""
        return self._process.pid if self._process else 0

    def usable(self) -> bool:
        """Whether a request has a chance. Notices a death that the event loop has not come to yet."""
        if self._process is not None and self._process.poll() is not None:
            self._died()
        return self._connection is not None

    def watch(self) -> None:
        """Read replies, and notice the end, on the running event loop. Before the first request."""
        self._loop = asyncio.get_running_loop()
        self._add_reader()

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, streams: tuple[int, int, int]
    ) -> int | None:
        """Fork, run the shim's command to its end and return its exit code.

        None when the zygote could not be asked (gone, or too busy to take another request) or has refused:
        nothing has run. Raises `ZygoteEnded` when it has died since; the command may then have run or not.
        """
        if not self.usable() or self._connection is None:
            return None
        number = self._number = self._number + 1
        request = {"id": number, "argv": list(argv), "env": dict(env), "cwd": cwd}
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], streams)
        except OSError as error:
            log.debug("zygote cannot be asked: %s", error)
            return None
        point("containerd.zygote.asked")
        exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = exited
        try:
            return await exited
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Let the zygote end; the shims it has forked go on."""
        self._closing = True
        process = self._process
        self._abandon()
        if self._interpreter is not None:
            os.close(self._interpreter)
            self._interpreter = None
        if process is None:
            return
        _reaped(process)

    def _begin(self) -> None:
        """Start a process. By exec, so it is safe beside gRPC's threads as well ."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        copy = self._interpreter
        passed = [theirs.fileno()] if copy is None else [theirs.fileno(), copy]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", MODULE, *map(str, passed)],
                executable=None if copy is None else interpreter.path_of(copy),
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        except OSError as error:
            log.warning("no zygote, shims are executed: %s", error)
            ours.close()
            return
        finally:
            theirs.close()
        open_files.give_back(self._process.pid)
        ours.setblocking(False)
        self._connection = ours
        self._begun = time.monotonic()
        self._add_reader()
        log.debug("zygote %d", self._process.pid)

    def _add_reader(self) -> None:
        if self._loop is not None and self._connection is not None:
            self._loop.add_reader(self._connection.fileno(), self._read)

    def _read(self) -> None:
        assert self._connection is not None
        try:
            reply = self._connection.recv(MAX_REPLY)
        except BlockingIOError:
            return
        except OSError:
            reply = b""
        if reply:
            self._resolve(reply)
        else:
            self._died()

    def _resolve(self, reply: bytes) -> None:
        message = json.loads(reply)
        waiting = self._waiting.get(message["id"])
        if "error" in message:
            log.warning("zygote: %s", message["error"])
        if "pid" not in message and waiting and not waiting.done():
            waiting.set_result(message.get("exit"))

    def _died(self) -> None:
        """Clear up after a process that has ended, and start another if that promises to help."""
        process, lived = self._process, time.monotonic() - self._begun
        self._abandon()
        if self._closing or process is None:
            return
        killed = -_reaped(process) in (signal.SIGKILL, signal.SIGTERM)
        if lived < MIN_LIFE and not killed:
            log.warning("zygote %d has ended at once; shims are executed from now on", process.pid)
            return
        log.warning("zygote %d has ended; starting another", process.pid)
        self._begin()

    def _abandon(self) -> None:
        if self._connection is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._connection.fileno())
            self._connection.close()
        self._connection = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ZygoteEnded("zygote has ended"))
        self._process = None


def _reaped(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is ending; one that does not is killed."""
    try:
        return process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def start() -> Zygote:
    """Start the zygote, before any thread exists."""
    return Zygote()
