"""The user's terminal: raw mode, size, and the key sequence that detaches from a container."""

import os

from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DETACH_KEYS = "ctrl-p,ctrl-q"


def size(fd: int = 1) -> tuple[int, int]:
    """Rows and columns; (0, 0) where there is no terminal."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


class RawMode:
    """A terminal that hands on every key as it is typed, for the length of a `with` block.

    Output processing is switched off too: the container's own terminal has done it (termios(3)).
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> "RawMode":
        import termios

        self._saved = termios.tcgetattr(self.fd)
        mode = termios.tcgetattr(self.fd)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.fd, termios.TCSANOW, mode)
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        if self._saved is not None:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._saved)
            self._saved = None


def parse_keys(text: str) -> bytes:
    """The bytes of a key sequence such as `ctrl-p,ctrl-q` or `a,b`. Raises `InvalidArgument`."""
    return bytes(_key(part, text) for part in text.split(","))


def _key(part: str, whole: str) -> int:
    if len(part) == 1 and part.isascii():
        return ord(part)
    letter = part.removeprefix("ctrl-")
    if letter != part and len(letter) == 1 and ("a" <= letter <= "z" or letter in "@[\\]^_"):
        return ord(letter.upper()) - 64
    raise InvalidArgument(f"invalid detach keys ({whole}): expected keys such as a or ctrl-p, got {part!r}")


class DetachKeys:
    """Finds the sequence in what is typed; holds back what may be its beginning."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0

    def filter(self, data: bytes) -> tuple[bytes, bool]:
        """What to send on of `data`, and whether the sequence is now complete."""
        out = bytearray()
        for byte in data:
            if self._sequence and byte == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += self._sequence[: self._matched]
            self._matched = 0
            if self._sequence and byte == self._sequence[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False
