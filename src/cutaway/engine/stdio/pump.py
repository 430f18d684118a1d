"""A client's input on its way into a process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto

from cutaway.engine.stdio.detach import DetachScanner
from cutaway.engine.stdio.fifo import Writer
from cutaway.errors import Unavailable


class InputEnd(Enum):
    """Why a client's input ended."""

    EOF = auto()
    DETACHED = auto()
    PROCESS_GONE = auto()


async def pump_stdin(
    read: Callable[[], Awaitable[bytes]], writer: Writer, detach: DetachScanner | None
) -> InputEnd:
    """Copy until the client has no more, types the detach keys, or the process's input is closed."""
    while data := await read():
        passed, detached = detach.feed(data) if detach else (data, False)
        try:
            await writer.write(passed)
        except Unavailable:
            return InputEnd.PROCESS_GONE
        if detached:
            return InputEnd.DETACHED
    return InputEnd.EOF
