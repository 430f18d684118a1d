"""Starting our own shim by fork: the daemon's end of the zygote's socket.

The zygote is a process of one thread that has the shim's code imported; it forks on request. What the
forked child gets is what an exec would give it: the same arguments, environment, directory and standard
streams. So this is an accelerator and nothing else; without it the shim is executed.

    request   {"id": 1, "argv": [...], "env": {...}, "cwd": "..."} and three descriptors (SCM_RIGHTS)
    replies   {"id": 1, "pid": 4711} once forked, {"id": 1, "exit": 0} once it has ended
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from cutaway.errors import Unavailable

log = logging.getLogger("containerd.zygote")

MODULE = "cutaway.shim.zygote"
MAX_REPLY = 4096


class Zygote:
    """The forking process. Starts are concurrent; the process ends when this end is closed."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._number = 0
        self._watched = False

    @property
    def usable(self) -> bool:
        return self._connection.fileno() >= 0

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, streams: tuple[int, int, int]
    ) -> int:
        """Fork, run the shim's command to its end and return its exit code.

        Raises `Unavailable` when the zygote is gone; the command may then have run or not.
        """
        self._watch()
        self._number += 1
        request = {"id": self._number, "argv": list(argv), "env": dict(env), "cwd": cwd}
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = exited
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], streams)
        except OSError as error:
            self._gone()
            raise Unavailable(f"zygote cannot be asked: {error}") from None
        return await exited

    def close(self) -> None:
        """Let the zygote end; the shims it has forked go on."""
        self._gone()
        self._process.wait()

    def _watch(self) -> None:
        if not self.usable:
            raise Unavailable("zygote has ended")
        if not self._watched:
            asyncio.get_running_loop().add_reader(self._connection.fileno(), self._read)
            self._watched = True

    def _read(self) -> None:
        try:
            reply = self._connection.recv(MAX_REPLY)
        except BlockingIOError:
            return
        except OSError:
            reply = b""
        if not reply:
            log.warning("zygote %d has ended; shims are executed from now on", self._process.pid)
            self._gone()
            return
        message = json.loads(reply)
        if "exit" in message and (waiting := self._waiting.pop(message["id"], None)) and not waiting.done():
            waiting.set_result(message["exit"])

    def _gone(self) -> None:
        if self._watched:
            asyncio.get_event_loop_policy().get_event_loop().remove_reader(self._connection.fileno())
            self._watched = False
        self._connection.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("zygote has ended"))
        self._waiting.clear()


def start() -> Zygote | None:
    """Start the zygote, before any thread exists. None when it cannot be, which the log then explains."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-m", MODULE, str(theirs.fileno())]
    try:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/", env=dict(os.environ)
        )
    except OSError as error:
        log.warning("no zygote, shims are executed: %s", error)
        ours.close()
        return None
    finally:
        theirs.close()
    ours.setblocking(False)
    return Zygote(process, ours)
