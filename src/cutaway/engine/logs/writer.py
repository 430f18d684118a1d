"""Docker's json-file log: {"log":"text\\n","stream":"stdout","time":"..."}, one a line of output.

Lines longer than 16 KiB are cut into pieces without a newline at the end, as Docker does. Writes go
to the page cache in the event loop itself: a line costs microseconds, a thread would cost more.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cutaway.engine.stdio.framing import NAMES
from cutaway.engine.timestamps import now_ns, rfc3339
from cutaway.errors import InvalidArgument

MAX_LINE: Final = 16 << 10
_SIZE: Final = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
DRIVERS: Final = ("json-file", "none")


def check_options(driver: str, options: Mapping[str, str]) -> None:
    """Raise `InvalidArgument` for a driver or an option that we do not have."""
    if driver not in DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{driver}' is registered")
    if driver == "json-file":
        for key in options:
            if key not in (
                "max-size",
                "max-file",
                "labels",
                "labels-regex",
                "env",
                "env-regex",
                "tag",
                "compress",
            ):
                raise InvalidArgument(f"unknown log opt '{key}' for json-file log driver")
        size_limit(options)
        file_count(options)


def size_limit(options: Mapping[str, str]) -> int:
    """`max-size` in bytes, 0 for none."""
    text = options.get("max-size", "-1")
    if text == "-1":
        return 0
    found = _SIZE.fullmatch(text)
    if not found or int(found[1]) == 0:
        raise InvalidArgument(f"invalid value for max-size: {text}: expected a size such as 10m")
    return int(found[1]) << 10 * _UNITS[found[2].lower()]


def file_count(options: Mapping[str, str]) -> int:
    """`max-file`, at least 1."""
    text = options.get("max-file", "1")
    if not (text.isdecimal() and 1 <= int(text) <= 1000):
        raise InvalidArgument(f"invalid value for max-file: {text}: expected a number from 1 on")
    return int(text)


class ContainerLog:
    """A container's log file, open from its first line of output until it is closed."""

    def __init__(self, path: Path, options: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._limit = size_limit(options or {})
        self._files = file_count(options or {})
        self._fd = -1
        self._size = 0
        self._partial: dict[int, bytes] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    def write(self, stream: int, data: bytes) -> None:
        """Log a piece of output; an unfinished line waits for its rest."""
        text = self._partial.pop(stream, b"") + data
        *whole, rest = text.split(b"\n")
        lines = [piece for line in whole for piece in _pieces(line + b"\n")]
        while len(rest) >= MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        if rest:
            self._partial[stream] = rest
        if lines:
            self._append(stream, lines)

    def _append(self, stream: int, lines: list[bytes]) -> None:
        name, time = NAMES[stream], rfc3339(now_ns())
        self._open()
        batch = bytearray()
        for line in lines:
            entry = {"log": line.decode("utf-8", "replace"), "stream": name, "time": time}
            encoded = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            held = self._size + len(batch)
            if self._limit and held and held + len(encoded) > self._limit:
                self._flush(batch)
                self._rotate()
            batch += encoded
        self._flush(batch)
        self.wake()

    def _flush(self, batch: bytearray) -> None:
        """Write whole entries or none: on a full disk half of one would spoil the next."""
        try:
            _write_all(self._fd, bytes(batch))
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(batch)
        batch.clear()

    def _open(self) -> None:
        if self._fd < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o640)
            self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        """The full file becomes .1, .1 becomes .2 and so on; the oldest goes."""
        os.close(self._fd)
        self._fd = -1
        for number in range(self._files - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        if self._files == 1:
            self.path.unlink(missing_ok=True)
        self._open()

    def finish(self) -> None:
        """The run is over: log unfinished lines, and wake those who follow."""
        partial, self._partial = self._partial, {}
        for stream, rest in partial.items():
            self._append(stream, [rest])
        self.close()
        self.wake()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def files(self) -> list[Path]:
        """The log's files that exist, oldest first."""
        older = (
            self.path.with_name(f"{self.path.name}.{number}") for number in range(self._files - 1, 0, -1)
        )
        return [path for path in (*older, self.path) if path.exists()]

    def changed(self) -> asyncio.Future[None]:
        """A future that is done at the next write or end of a run; take it before looking at the file."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        return future

    def wake(self) -> None:
        """Have those who follow look again: at the file, or at whether the container still runs."""
        waiters, self._waiters = self._waiters, set()
        for future in waiters:
            if not future.done():
                future.set_result(None)


def _pieces(line: bytes) -> list[bytes]:
    if len(line) <= MAX_LINE:
        return [line]
    return [line[start : start + MAX_LINE] for start in range(0, len(line), MAX_LINE)]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
