"""A connection to a bus or a peer: authentication, calls and their answers, signals."""

import os
import socket
import time

from cutaway.errors import DeadlineExceeded, InvalidArgument, PermissionDenied, Unavailable, Unknown
from cutaway.linux import libc
from cutaway.linux.dbus import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SYSTEM_BUS = "unix:path=/var/run/dbus/system_bus_socket"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
TIMEOUT = 30.0  # seconds that an answer or a signal may take
_MAX_LINE = 16384


class DBusError(Unknown):
    """The other side's answer to a call was an error; `name` is D-Bus's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


class Connection:
    """To be closed. One thread, one call at a time; signals that come meanwhile are kept."""

    def __init__(self, address: str, uid: int | None = None) -> None:
        """Connect and authenticate as `uid`, by default ourselves.

        Raises `Unavailable`, `PermissionDenied`, `InvalidArgument` for an address that is none.
        """
        self._buffer = b""
        self._serial = 0
        self._signals: list[wire.Message] = []
        self._deadline = time.monotonic() + TIMEOUT
        self.name = ""  # ours, on a bus
        self._socket = _connect(address)
        try:
            self._authenticate(os.getuid() if uid is None else uid, address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _authenticate(self, uid: int, address: str) -> None:
        """EXTERNAL: the kernel tells the other side who we are ("Authentication Protocol").

        All in one piece: systemd 252, as a peer, does not look at a message that comes together with BEGIN
        before more arrives.
        """
        self._send(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\nBEGIN\r\n")
        line = self._line()
        if not line.startswith(b"OK "):
            raise PermissionDenied(f"D-Bus: {address} does not accept user {uid}")

    def hello(self) -> None:
        """Announce us: a bus wants that first, a peer does not know it."""
        self.name = self.call(BUS, BUS_PATH, BUS, "Hello")[0]

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: "list[Any] | None" = None,
    ) -> "list[Any]":
        """Call a method and wait for its answer's values. Raises `DBusError`, `Unavailable`,
        `DeadlineExceeded`, `DataLoss`."""
        fields = {"path": path, "interface": interface, "member": member, "signature": signature}
        fields["destination"] = destination
        serial = self.send(wire.CALL, fields, wire.pack(signature, values or []))
        self._deadline = time.monotonic() + TIMEOUT
        while True:
            message = self._receive(member)
            if message.fields.get("reply_serial") == serial:
                if message.kind == wire.ERROR:
                    text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                    raise DBusError(message.text("error_name"), text)
                return message.body
            if message.kind == wire.SIGNAL:
                self._signals.append(message)

    def send(self, kind: int, fields: "dict[str, Any]", body: bytes = b"") -> int:
        """Send a message; its serial."""
        self._serial += 1
        self._send(wire.encode(kind, self._serial, fields, body))
        return self._serial

    def wait(self, what: str, wanted: "Callable[[wire.Message], bool]") -> wire.Message:
        """The first signal, of those that came and that will come, that is wanted.

        Raises `DeadlineExceeded` saying what it was waiting for.
        """
        self._deadline = time.monotonic() + TIMEOUT
        while True:
            for index, message in enumerate(self._signals):
                if wanted(message):
                    del self._signals[: index + 1]
                    return message
            self._signals = []
            message = self._receive(what)
            if message.kind == wire.SIGNAL:
                self._signals.append(message)

    def receive(self, timeout: float) -> wire.Message:
        """The next message whatever it is. Raises `DeadlineExceeded`."""
        self._deadline = time.monotonic() + timeout
        return self._receive("a message")

    def _receive(self, what: str) -> wire.Message:
        head = self._exactly(wire.HEAD, what)
        return wire.decode(head + self._exactly(wire.length(head) - wire.HEAD, what))

    def _exactly(self, count: int, what: str) -> bytes:
        while len(self._buffer) < count:
            self._fill(what)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE:
                raise Unavailable("D-Bus: the other side does not speak D-Bus")
            self._fill("authentication")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _fill(self, what: str) -> None:
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(65536)
        except TimeoutError:
            raise DeadlineExceeded(f"D-Bus: no answer in time to {what}") from None
        except OSError as error:
            raise Unavailable(f"D-Bus: {libc.words(error.errno or 0)}") from None
        if not data:
            raise Unavailable("D-Bus: the other side has closed the connection")
        self._buffer += data

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.sendall(data)
        except OSError as error:
            raise Unavailable(f"D-Bus: {libc.words(error.errno or 0)}") from None


def addresses(text: str) -> list[bytes]:
    """The names of Unix sockets in an address list ("Server Addresses"); other transports are passed over.

    Raises `InvalidArgument` when there is none.
    """
    found = []
    for entry in text.split(";"):
        transport, _, rest = entry.partition(":")
        pairs = dict(pair.partition("=")[::2] for pair in rest.split(",") if "=" in pair)
        if transport == "unix" and "path" in pairs:
            found.append(_unescape(pairs["path"]))
        elif transport == "unix" and "abstract" in pairs:
            found.append(b"\0" + _unescape(pairs["abstract"]))
    if not found:
        raise InvalidArgument(f"D-Bus: {text!r} names no Unix socket")
    return found


def _unescape(text: str) -> bytes:
    first, *rest = text.encode().split(b"%")
    try:
        return first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest)
    except ValueError:
        raise InvalidArgument(f"D-Bus: bad escape in the address {text!r}") from None


def _connect(address: str) -> socket.socket:
    problem = ""
    for name in addresses(address):
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            found.connect(name)
        except OSError as error:
            found.close()
            problem = f"dial unix {os.fsdecode(name)}: connect: {libc.words(error.errno or 0)}"
        else:
            return found
    raise Unavailable(problem)
