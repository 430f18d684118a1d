"""Network devices of a namespace: asked for, switched, moved, given addresses (rtnetlink(7)).

A socket speaks about the namespace that its maker was in, for good; so one is made where it shall look,
and used from anywhere.
"""

import _socket
import os

from cutaway.linux import libc, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_ROUTE = 0
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE, _EXCL = 0x1, 0x4, 0x300, 0x400, 0x200
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFF_UP = 1
_IFA_F_PERMANENT = 0x80
_SCOPE_UNIVERSE = 0
_LARGEST = 1 << 16
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

NAME_LARGEST = 15  # IFNAMSIZ without the zero byte


class Link:
    """A network device."""

    __slots__ = ("index", "name", "up")

    def __init__(self, index: int, name: str, up: bool) -> None:
        self.index = index
        self.name = name
        self.up = up


class Address:
    """An address of a device: whatever the kernel said of it, but for the device."""

    __slots__ = ("attributes", "family", "prefix")

    def __init__(self, family: int, prefix: int, attributes: dict[int, bytes]) -> None:
        self.family = family
        self.prefix = prefix  # bits
        self.attributes = attributes


class Devices:
    """The network devices of one namespace: of the caller's, or of the one that `netns` names."""

    def __init__(self, netns: int | None = None) -> None:
        self._sequence = 0
        self._socket = _open() if netns is None else _open_in(netns)

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Every device. Raises OSError."""
        header = bytes(16)
        return [_link(body) for body in self._ask(_GETLINK, _DUMP, header, "list network devices")]

    def find(self, name: str) -> Link | None:
        """The device of a name, or None. Raises OSError."""
        return next((link for link in self.links() if link.name == name), None)

    def addresses(self, index: int) -> list[Address]:
        """The addresses of a device that were given for good and for everywhere (RFC 3549, 2.3.3.2)."""
        bodies = self._ask(_GETADDR, _DUMP, bytes(8), "list addresses")
        return [found for body in bodies if (found := _address(body, index)) is not None]

    def switch(self, index: int, up: bool) -> None:
        """Set a device up or down. Raises OSError."""
        self._ask(_NEWLINK, _ACK, _ifinfo(index, _IFF_UP if up else 0, _IFF_UP), "switch device")

    def move(self, index: int, netns: int, name: str) -> None:
        """Move a device to the namespace that a descriptor names, with a name there (or a pattern with %d).

        Raises OSError: EEXIST for a name that is taken, EINVAL for a device that cannot leave.
        """
        body = _ifinfo(index, 0, 0)
        body += _attribute(_IFLA_IFNAME, os.fsencode(name) + b"\0")
        body += _attribute(_IFLA_NET_NS_FD, netns.to_bytes(4, "little"))
        self._ask(_NEWLINK, _ACK, body, f"move device to {name}")

    def add(self, index: int, address: Address) -> None:
        """Give a device an address; that it has it already is no error. Raises OSError."""
        body = bytes((address.family, address.prefix, 0, _SCOPE_UNIVERSE)) + index.to_bytes(4, "little")
        body += b"".join(_attribute(kind, value) for kind, value in address.attributes.items())
        try:
            self._ask(_NEWADDR, _ACK | _CREATE | _EXCL, body, "add address")
        except FileExistsError:
            return

    def _ask(self, kind: int, flags: int, body: bytes, what: str) -> list[bytes]:
        """Send one request; the bodies of all answers to it."""
        self._sequence += 1
        head = (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little")
        head += (_REQUEST | flags).to_bytes(2, "little") + self._sequence.to_bytes(4, "little") + bytes(4)
        self._socket.send(head + body)
        answers: list[bytes] = []
        while True:
            for kind, sequence, answer in _messages(self._socket.recv(_LARGEST)):
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return answers
                if kind == _ERROR:
                    if code := -int.from_bytes(answer[:4], "little", signed=True):
                        libc.fail(code, what)
                    return answers
                answers.append(answer)


def _open() -> "_socket.socket":
    made = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    made.bind((0, 0))
    return made


def _open_in(netns: int) -> "_socket.socket":
    """A socket of another namespace: this thread is there for a moment."""
    kind = namespaces.flag("network")
    own = os.open(namespaces.file_of("network"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(netns, kind, "setns to the network namespace")
        try:
            return _open()
        finally:
            namespaces.setns(own, kind, "setns back to the runtime's network namespace")
    finally:
        os.close(own)


def _ifinfo(index: int, flags: int, change: int) -> bytes:
    """struct ifinfomsg."""
    return bytes(4) + index.to_bytes(4, "little") + flags.to_bytes(4, "little") + change.to_bytes(4, "little")


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return size.to_bytes(2, "little") + kind.to_bytes(2, "little") + value + bytes(-size % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        size = int.from_bytes(data[:2], "little")
        if size < 4:
            break
        found[int.from_bytes(data[2:4], "little") & _TYPE_MASK] = data[4:size]
        data = data[size + -size % 4 :]
    return found


def _messages(data: bytes) -> "Iterator[tuple[int, int, bytes]]":
    """Type, sequence number and body of each message in a datagram."""
    while len(data) >= 16:
        size = int.from_bytes(data[:4], "little")
        yield int.from_bytes(data[4:6], "little"), int.from_bytes(data[8:12], "little"), data[16:size]
        data = data[size + -size % 4 :]


def _link(body: bytes) -> Link:
    name = _attributes(body[16:]).get(_IFLA_IFNAME, b"").rstrip(b"\0")
    up = bool(int.from_bytes(body[8:12], "little") & _IFF_UP)
    return Link(int.from_bytes(body[4:8], "little"), os.fsdecode(name), up)


def _address(body: bytes, index: int) -> Address | None:
    family, prefix, flags, scope = body[:4]
    attributes = _attributes(body[8:])
    if _IFA_FLAGS in attributes:
        flags = int.from_bytes(attributes[_IFA_FLAGS], "little")
    ours = int.from_bytes(body[4:8], "little") == index
    if not ours or scope != _SCOPE_UNIVERSE or not flags & _IFA_F_PERMANENT:
        return None
    kept = (_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST)
    return Address(family, prefix, {kind: attributes[kind] for kind in kept if kind in attributes})
