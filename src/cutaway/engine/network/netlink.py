"""Netlink sockets: requests of one or many messages, each acknowledged or refused by the kernel (netlink(7)).

Ours and not a library's: what the default network needs are a dozen messages, encoded here and in the
modules beside this in some hundred lines. docs/decisions/network.md has the comparison.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from cutaway.errors import (
    AlreadyExists,
    CutawayError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unknown,
)

ROUTE: Final = 0
NETFILTER: Final = 12

NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_SOL_NETLINK: Final = 270
_EXT_ACK: Final = 11
_CAP_ACK: Final = 10
_ACK_TLVS: Final = 0x200
_ACK_TEXT: Final = 1
_NESTED: Final = 0x8000
_HEADER: Final = struct.Struct("=IHHII")
_WAIT: Final = 10.0  # seconds; the kernel answers at once or not at all

_CLASSES: Final[dict[int, type[CutawayError]]] = {
    errno.EEXIST: AlreadyExists,
    errno.ENOENT: NotFound,
    errno.ENODEV: NotFound,
    errno.ESRCH: NotFound,
    errno.EPERM: PermissionDenied,
    errno.EACCES: PermissionDenied,
    errno.EBUSY: FailedPrecondition,
    errno.EOPNOTSUPP: FailedPrecondition,
    errno.EPROTONOSUPPORT: FailedPrecondition,
    errno.EINVAL: InvalidArgument,
}


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, its body (fixed header and attributes), what it does in words for errors."""

    type: int
    body: bytes
    what: str
    flags: int = 0


def attr(kind: int, value: bytes | int | str) -> bytes:
    """One attribute, padded: an int as 32 bits of this machine, a str with its final zero."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attr(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a reply: type without flags, value."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


class Netlink:
    """A socket to one family. It belongs to the network namespace that the thread is in when it is opened."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, 0))
        self._socket.settimeout(_WAIT)
        for option in (_EXT_ACK, _CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, messages: Sequence[Message]) -> None:
        """Send messages in one go; the kernel does one after the other, and those after a refused one too.

        Raises the class of the first refusal, with what the message was to do and the kernel's own words.
        """
        pending = self._send(messages, NLM_F_ACK)
        first: CutawayError | None = None
        while pending:
            for kind, _, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or sequence not in pending:
                    continue
                refusal = _refusal(pending.pop(sequence), body)
                first = first or refusal
        if first is not None:
            raise first

    def batch(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """A transaction of nfnetlink: all messages between the brackets take effect, or none does."""
        pending = self._send([begin, *messages, end], 0, acknowledge=messages)
        first: CutawayError | None = None
        while pending:
            for kind, _, sequence, body in self._receive():
                if kind != _NLMSG_ERROR:
                    continue
                # The brackets are answered only when the transaction as a whole is refused.
                refusal = _refusal(pending.pop(sequence, begin), body)
                first = first or refusal
            if first is not None and not self._more():
                break
        if first is not None:
            raise first

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all objects of a kind. Raises `Unavailable` if the list changed meanwhile."""
        self._send([Message(kind, body, "list", NLM_F_DUMP)], 0)
        found: list[bytes] = []
        while True:
            for answer, flags, sequence, data in self._receive():
                if sequence != self._sequence:
                    continue
                if flags & 0x10:  # NLM_F_DUMP_INTR
                    raise Unavailable("the kernel's list changed while it was read; try again")
                if answer == _NLMSG_DONE:
                    return found
                if answer == _NLMSG_ERROR:
                    refusal = _refusal(Message(kind, b"", "list"), data)
                    if refusal is not None:
                        raise refusal
                    return found
                found.append(data)

    def _send(
        self, messages: Sequence[Message], flags: int, acknowledge: Sequence[Message] = ()
    ) -> dict[int, Message]:
        pending: dict[int, Message] = {}
        data = bytearray()
        for message in messages:
            self._sequence += 1
            wanted = flags | (NLM_F_ACK if any(message is other for other in acknowledge) else 0)
            if wanted & NLM_F_ACK:
                pending[self._sequence] = message
            length = _HEADER.size + len(message.body)
            bits = NLM_F_REQUEST | wanted | message.flags
            data += _HEADER.pack(length, message.type, bits, self._sequence, 0) + message.body
        self._socket.sendto(data, (0, 0))
        return pending

    def _more(self) -> bool:
        """Whether another answer is there already: a refused transaction answers only what it refuses."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: type, flags, sequence number, body."""
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise Unavailable("the kernel does not answer a netlink request") from None
        while len(data) >= _HEADER.size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            if kind == _NLMSG_ERROR:
                body = struct.pack("=H", flags) + body
            yield kind, flags, sequence, body
            data = data[(length + 3) & ~3 :]


def _refusal(message: Message, body: bytes) -> CutawayError | None:
    """The error in an acknowledgement, or None when it says that all went well."""
    flags, code = struct.unpack_from("=Hi", body)
    if code == 0:
        return None
    words = os.strerror(-code)
    if flags & _ACK_TLVS:
        for kind, value in attributes(body[6 + _HEADER.size :]):
            if kind == _ACK_TEXT:
                words = f"{words} ({value.rstrip(bytes(1)).decode(errors='replace')})"
    return _CLASSES.get(-code, Unknown)(f"network: cannot {message.what}: {words}")
