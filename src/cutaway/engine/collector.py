"""The collector's own socket, for programs that cannot wait: EXEC_ROOT/otlp.sock takes `POST /v1/traces`.

A runtime has a container's start waiting for its exit, so it writes its spans and goes, without reading
the reply. An HTTP server takes that for a client that has changed its mind, and a run makes a dozen such
requests: here each is read to its end on a thread of its own and put aside, at a tenth of the price.
Whoever wants an answer about what was wrong with the request asks the API's socket.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

MAX_BODY: Final = 4 << 20
_MAX_HEAD: Final = 16 << 10
# A sender has all it wants to say when it connects.
_SECONDS: Final = 1.0

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})[ \t]*\r\n", re.IGNORECASE)
_OK: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
)
_REFUSED: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Collector:
    """Reads requests off a listening socket and hands their bodies to `keep`, on a thread."""

    def __init__(self, listener: socket.socket, keep: Callable[[str], None]) -> None:
        self._listener = listener
        self._listener.setblocking(True)
        self._keep = keep
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; the socket itself is the caller's."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=2 * _SECONDS)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down
            with connection:
                try:
                    self._serve(connection)
                except OSError as error:
                    log.debug("a sender of spans went away: %s", error)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_SECONDS)
        body = read_request(connection)
        if body is not None:
            self._keep(body)
        try:
            connection.sendall(_REFUSED if body is None else _OK)
        except OSError:
            log.debug("the sender has not waited for the reply")


def read_request(connection: socket.socket) -> str | None:
    """The body of `POST /v1/traces`; None for anything else, or for one that is cut short or too large."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _MAX_HEAD:
        data += (more := connection.recv(1 << 16))
        if not more:
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    if not head.startswith(b"POST /v1/traces ") or length is None or int(length[1]) > MAX_BODY:
        return None
    parts, missing = [body], int(length[1]) - len(body)
    while missing > 0:
        parts.append(connection.recv(min(missing, 1 << 16)))
        missing -= len(parts[-1])
        if not parts[-1]:
            return None
    try:
        return b"".join(parts)[: int(length[1])].decode()
    except UnicodeDecodeError:
        return None
