"""A seccomp agent: takes listeners over a Unix socket, as a runtime sends them, and answers system calls."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

# struct seccomp_notif: id, pid, flags, then seccomp_data: nr, arch, instruction pointer, six arguments.
_NOTIF: Final = struct.Struct("=QII iIQ6Q")
# struct seccomp_notif_resp: id, val, error, flags.
_RESPONSE: Final = struct.Struct("=QqiI")
_RECV: Final = 3 << 30 | _NOTIF.size << 16 | ord("!") << 8 | 0
_SEND: Final = 3 << 30 | _RESPONSE.size << 16 | ord("!") << 8 | 1
CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE

_GONE: Final = (errno.ENOENT, errno.EINTR)  # the process died while it was asked about

# What a call gets, by its number and pid: a value, an error and flags.
Answer = Callable[[int, int], tuple[int, int, int]]


class Agent:
    """While entered, listens. `states`: the messages received; `calls`: the numbers of the calls answered."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.states: list[dict[str, Any]] = []
        self.calls: list[int] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(path))
        self._socket.listen()
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Agent:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stopped)
        self._thread.join(20)
        assert not self._thread.is_alive()
        os.close(self._stop)
        self._socket.close()

    def _serve(self) -> None:
        poller = select.poll()
        for fd in (self._socket.fileno(), self._stop):
            poller.register(fd, select.POLLIN)
        listeners: set[int] = set()
        while True:
            for fd, events in poller.poll():
                if fd == self._stop:
                    for listener in listeners:
                        os.close(listener)
                    return
                if fd == self._socket.fileno():
                    listener = self._accept()
                    listeners.add(listener)
                    poller.register(listener, select.POLLIN)
                elif events & select.POLLIN:
                    self._reply(fd)
                else:  # POLLHUP: nobody is under the filter any more
                    poller.unregister(fd)
                    listeners.remove(fd)
                    os.close(fd)

    def _accept(self) -> int:
        connection, _ = self._socket.accept()
        with connection:
            text, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(16))  # runc leaves it open
        fds = array.array("i", ancillary[0][2])
        assert len(fds) == 1
        self.states.append(json.loads(text))
        return fds[0]

    def _reply(self, listener: int) -> None:
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(listener, _RECV, buffer)
            call = _NOTIF.unpack(buffer)
            value, error, flags = self._answer(call[3], call[1])
            fcntl.ioctl(listener, _SEND, _RESPONSE.pack(call[0], value, -error, flags))
            self.calls.append(call[3])
        except OSError as error:
            if error.errno not in _GONE:
                raise
