"""The keys that end an attach and leave the process running: `ctrl-p,ctrl-q` unless told otherwise."""

from __future__ import annotations

from typing import Final

from cutaway.errors import InvalidArgument

DEFAULT: Final = b"\x10\x11"
_NAMED: Final = {
    "ctrl-@": 0,
    "ctrl-[": 27,
    "ctrl-\\": 28,
    "ctrl-]": 29,
    "ctrl-^": 30,
    "ctrl-_": 31,
    "DEL": 127,
}


def parse(text: str) -> bytes:
    """The bytes of a sequence such as `ctrl-a,x`; "" is the default. Raises `InvalidArgument`."""
    if not text:
        return DEFAULT
    return bytes(_key(part, text) for part in text.split(","))


def _key(part: str, text: str) -> int:
    if part in _NAMED:
        return _NAMED[part]
    if part.startswith("ctrl-") and len(part) == 6 and part[5].isascii() and part[5].islower():
        return ord(part[5]) - ord("a") + 1
    if len(part) == 1 and part.isascii():
        return ord(part)
    raise InvalidArgument(f"Invalid detach keys ({text}) provided")


class DetachScanner:
    """Looks for the keys in what a client types; begun sequences are held back until they are decided."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on of `data`, and whether the keys were completed."""
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 1 if byte == self._keys[0] else 0
            if not self._matched:
                passed.append(byte)
        return bytes(passed), False
