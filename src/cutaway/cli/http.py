"""HTTP/1.1 over a Unix socket: the little of it that the Engine API needs.

    Connection.open(path)  ── send() ──▶  response()  ──▶  Response: status, headers, body
                                              │
                                              └─ status 101: hijack() gives the bare socket

Bodies come with Content-Length, chunked, or until the peer closes; a connection whose response was
read to its end serves the next request. Source: RFC 9112; the hijack is Docker's (101 UPGRADED).

Own code because of its place: this is on the path of every command, where the standard http.client
costs 20 ms to import and aiohttp 140. The C socket type is used directly for the same reason
(`import socket` brings enum and selectors: 8 ms).
"""

import errno
import os
from _socket import AF_UNIX, MSG_NOSIGNAL, SHUT_WR, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket

from cutaway.errors import Unavailable, Unknown

MAX_HEAD = 64 * 1024
MAX_LINE = 16 * 1024 * 1024
CHUNK = 64 * 1024
_NO_BODY = (101, 204, 304)


class Connection:
    """One connection with what was read from it and not yet used."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.buffer = b""

    @classmethod
    def open(cls, path: str) -> "Connection":
        """Connect to a socket file. OSError as the kernel gave it: the caller knows what to advise."""
        sock = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def close(self) -> None:
        self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, data: bytes) -> None:
        """Send everything. Raises `Unavailable` when the daemon has gone."""
        try:
            self.sock.sendall(data, MSG_NOSIGNAL)
        except OSError as error:
            raise Unavailable(f"the daemon closed the connection: {error.strerror}") from None

    def send_some(self, data: bytes) -> int:
        """Send what goes without waiting; returns how many bytes did. -1: the peer reads no more."""
        try:
            return self.sock.send(data, MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                return -1
            raise

    def half_close(self) -> None:
        """Say that nothing more will be sent; the answer is still read."""
        try:
            self.sock.shutdown(SHUT_WR)
        except OSError:
            return  # the peer was faster

    def receive(self, size: int = CHUNK) -> bytes:
        """Bytes from the buffer or else the socket; b"" at the end."""
        if self.buffer:
            data, self.buffer = self.buffer[:size], self.buffer[size:]
            return data
        try:
            return self.sock.recv(size)
        except ConnectionResetError:
            return b""

    def line(self) -> bytes:
        """A line without its line end. Raises `Unavailable` when the connection ends before one."""
        while b"\n" not in self.buffer:
            if len(self.buffer) > MAX_HEAD:
                raise Unknown("the daemon's answer has a header line beyond all measure")
            more = self._more()
            if not more:
                raise Unavailable("the daemon closed the connection in the middle of an answer")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def _more(self) -> bytes:
        try:
            data = self.sock.recv(CHUNK)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return data


class Response:
    """An answer: its head, and its body as it comes."""

    def __init__(self, connection: Connection, method: str) -> None:
        self.connection = connection
        self.status, self.reason = _status_line(connection.line())
        self.headers = _headers(connection)
        self.complete = False
        self._left = 0  # bytes left of the body, or of the current chunk
        self._chunked = False
        self._until_close = False
        self._find_body(method)

    def _find_body(self, method: str) -> None:
        if method == "HEAD" or self.status in _NO_BODY:
            self.complete = True
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked = True
        elif "content-length" in self.headers:
            length = self.headers["content-length"]
            if not length.isdecimal():
                raise Unknown(f"the daemon's answer has Content-Length {length!r}")
            self._left = int(length)
            self.complete = self._left == 0
        else:
            self._until_close = True

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        closing = self.headers.get("connection", "").lower() == "close"
        return self.complete and not self._until_close and not closing and self.status != 101

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes of the body, b"" at its end. Raises `Unavailable` when it is cut off."""
        if self.complete:
            return b""
        if self._chunked and self._left == 0 and not self._next_chunk():
            return b""
        data = self.connection.receive(size if self._until_close else min(size, self._left))
        if self._until_close:
            self.complete = not data
            return data
        if not data:
            raise Unavailable("the daemon closed the connection in the middle of an answer")
        self._left -= len(data)
        if self._left == 0:
            self._end_of_piece()
        return data

    def _next_chunk(self) -> bool:
        text = self.connection.line().split(b";")[0].strip()
        try:
            self._left = int(text, 16)
        except ValueError:
            raise Unknown(f"the daemon's answer has a chunk of size {text[:20]!r}") from None
        if self._left == 0:
            while self.connection.line():  # trailers
                continue
            self.complete = True
        return not self.complete

    def _end_of_piece(self) -> None:
        if self._chunked:
            self.connection.line()
        else:
            self.complete = True

    def read_all(self) -> bytes:
        parts = []
        while data := self.read():
            parts.append(data)
        return b"".join(parts)

    def lines(self) -> "Lines":
        """The body line by line, as it comes."""
        return Lines(self)

    def close(self) -> None:
        self.connection.close()


class Lines:
    """Iterates over the lines of a body; the last may lack its line end."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._buffer = b""

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self.response.read()
            if not data or len(self._buffer) > MAX_LINE:
                rest, self._buffer = self._buffer, b""
                if not rest.strip():
                    raise StopIteration
                return rest
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line if line.strip() else next(self)


def _status_line(line: bytes) -> tuple[int, str]:
    version, _, rest = line.decode("latin-1").partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not code.isdecimal():
        raise Unknown(f"what answers on the daemon's socket does not speak HTTP: {line[:60]!r}")
    return int(code), reason


def _headers(connection: Connection) -> dict[str, str]:
    """Header fields by lower-case name; of a repeated one the last counts."""
    found: dict[str, str] = {}
    count = 0
    while line := connection.line():
        name, _, value = line.decode("latin-1").partition(":")
        found[name.strip().lower()] = value.strip()
        count += 1
        if count > 200:
            raise Unknown("the daemon's answer has more than 200 header fields")
    return found


_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str, safe: str = "") -> str:
    """Percent-encode for a path or query (RFC 3986)."""
    keep = _UNRESERVED | frozenset(safe.encode())
    return "".join(chr(byte) if byte in keep else f"%{byte:02X}" for byte in os.fsencode(text))


def query(values: "dict[str, str] | list[tuple[str, str]]") -> str:
    """A query string with its question mark, "" for no values; a list may name a key more than once."""
    pairs = values.items() if isinstance(values, dict) else values
    text = "&".join(f"{quote(key)}={quote(value)}" for key, value in pairs)
    return f"?{text}" if text else ""
