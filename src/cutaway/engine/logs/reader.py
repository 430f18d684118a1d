"""Reading json-file logs back: from the start or the last lines, within times, and on as they grow."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cutaway.engine import timestamps
from cutaway.engine.logs.writer import ContainerLog
from cutaway.engine.stdio.framing import NAMES
from cutaway.errors import CutawayError

_BLOCK: Final = 65536
_STREAMS: Final = {name: number for number, name in NAMES.items()}


@dataclass(frozen=True)
class Selection:
    """Which entries are wanted. `tail` is a number of lines or None for all; times in ns, 0 for no bound."""

    streams: frozenset[int]
    tail: int | None = None
    since_ns: int = 0
    until_ns: int = 0

    def takes(self, entry: Entry) -> bool:
        before_end = not self.until_ns or entry.time_ns <= self.until_ns
        return entry.stream in self.streams and entry.time_ns >= self.since_ns and before_end


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    stream: int
    time_ns: int
    data: bytes


def parse_entry(line: bytes) -> Entry | None:
    """An entry of the file, or None for a line that a crash cut short."""
    try:
        value = json.loads(line)
        return Entry(
            _STREAMS[value["stream"]], timestamps.parse(value["time"], "time"), value["log"].encode("utf-8")
        )
    except (ValueError, KeyError, TypeError, AttributeError, CutawayError):
        return None


class _Cursor:
    """A place in a log, which moves on through its files as they are read, rotated and written."""

    def __init__(self, log: ContainerLog, tail: int | None) -> None:
        self._log = log
        files = log.files()
        starts = _tail_starts(files, tail)
        self._ahead = list(zip(files[len(files) - len(starts) :], starts, strict=True))
        self._file: BinaryIO | None = None
        self._rest = b""

    def entries(self) -> Iterator[Entry]:
        """Everything from here to the log's present end; a line that is being written waits."""
        while self._file is not None or self._advance():
            assert self._file is not None
            while block := self._file.read(_BLOCK):
                *lines, self._rest = (self._rest + block).split(b"\n")
                yield from filter(None, map(parse_entry, lines))
            if not self._advance():
                return

    def _advance(self) -> bool:
        """Go to the next file, if there is one: those that were there first, then what rotation brings."""
        if self._ahead:
            path, start = self._ahead.pop(0)
            return self._open(path, start)
        if self._log.path.exists() and not self._is_current():
            return self._open(self._log.path, 0)
        return False

    def _open(self, path: Path, start: int) -> bool:
        self.close()
        self._file = path.open("rb")
        self._file.seek(start)
        return True

    def _is_current(self) -> bool:
        """Whether what is being read is the file that is written to; rotation renames it."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._log.path.stat())
        except FileNotFoundError:
            return True  # removed: there is nothing to go on to

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


async def read(
    log: ContainerLog, wanted: Selection, follow: Callable[[], bool] | None
) -> AsyncGenerator[Entry, None]:
    """The entries of a log, oldest first; with `follow`, further ones for as long as it returns true."""
    cursor = _Cursor(log, wanted.tail)
    try:
        while True:
            changed = log.changed()  # taken before the look, so that nothing is missed between
            goes_on = follow is not None and follow()
            for entry in cursor.entries():
                if wanted.takes(entry):
                    yield entry
            if not goes_on or not await _happens(changed, wanted.until_ns):
                return
    finally:
        cursor.close()


async def _happens(changed: asyncio.Future[None], until_ns: int) -> bool:
    """Wait for a change; False if the time of interest is over first."""
    seconds = max(0.0, (until_ns - timestamps.now_ns()) / 1e9) if until_ns else None
    done, _ = await asyncio.wait([changed], timeout=seconds)
    return bool(done)


def _tail_starts(files: list[Path], tail: int | None) -> list[int]:
    """For the last files, oldest first, where to begin so that `tail` lines remain in all."""
    if tail is None:
        return [0] * len(files)
    starts: list[int] = []
    left = tail
    for path in reversed(files):
        start, found = _last_lines(path, left)
        starts.insert(0, start)
        left -= found
        if left <= 0:
            break
    return starts


def _last_lines(path: Path, count: int) -> tuple[int, int]:
    """Where the last `count` lines begin, and how many there are (fewer in a short file)."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        if count <= 0:
            return position, 0
        newlines = 0
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            newlines += block.count(b"\n")
            if newlines > count:  # the newline that ends the line before them is in this block
                return position + _after_newline(block, newlines - count), count
        return 0, newlines


def _after_newline(block: bytes, number: int) -> int:
    """The position after the `number`th newline of a block."""
    index = -1
    for _ in range(number):
        index = block.index(b"\n", index + 1)
    return index + 1
