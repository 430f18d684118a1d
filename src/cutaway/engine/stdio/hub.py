"""One process's output, from its FIFOs to its log and to every client that is attached.

A slow client may slow the process down, as a terminal does, but never for good: what a client has not
taken is buffered up to `HIGH_WATER`; beyond that the FIFOs are left unread, and a client that takes
nothing at all for `PATIENCE` seconds then is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from cutaway.engine.stdio.fifo import Reader
from cutaway.engine.stdio.framing import STDERR, STDOUT

log = logging.getLogger(__name__)

HIGH_WATER: Final = 16 << 20
PATIENCE: Final = 60.0


class Client(Protocol):
    """Someone who is attached."""

    @property
    def backlog(self) -> int:
        """Bytes handed over that are not on their way yet."""

    def deliver(self, stream: int, data: bytes) -> None:
        """Take a piece of output; must not block or raise."""

    def finish(self) -> None:
        """There is no more output in this run: end the connection, after what was delivered."""

    def drop(self) -> None:
        """End the connection at once."""


Sink = Callable[[int, bytes], None]


class Hub:
    """The output of a container or of an exec; a container's lives through all of its runs."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.sink = sink
        self._clients: list[Client] = []
        self._readers: dict[int, Reader] = {}
        self._drained = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    def attach(self, client: Client) -> None:
        """From now on the client gets all output."""
        self._clients.append(client)

    def detach(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)

    @property
    def clients(self) -> int:
        return len(self._clients)

    def open(self, paths: Mapping[int, Path]) -> None:
        """Begin to read the FIFOs of a run: stream number to path."""
        self._drained = asyncio.Event()
        for stream, path in paths.items():
            self._readers[stream] = Reader(path, self._feeder(stream), self._ender(stream))

    def _feeder(self, stream: int) -> Callable[[bytes], None]:
        return lambda data: self.feed(stream, data)

    def _ender(self, stream: int) -> Callable[[], None]:
        def ended() -> None:
            self._readers.pop(stream, None)
            if not self._readers:
                self._drained.set()

        return ended

    def feed(self, stream: int, data: bytes) -> None:
        """A piece of output: to the log first, which never waits, then to the clients."""
        if self.sink is not None:
            self._log(self.sink, stream, data)
        for client in self._clients:
            client.deliver(stream, data)
        if self._watch is None and any(client.backlog > HIGH_WATER for client in self._clients):
            self._watch = asyncio.get_running_loop().create_task(self._wait_for_the_slow())

    @staticmethod
    def _log(sink: Sink, stream: int, data: bytes) -> None:
        """A log that cannot be written (a full disk) costs the log, not the container."""
        try:
            sink(stream, data)
        except OSError as error:
            log.error("%d bytes of output were not logged: %s", len(data), error)

    async def _wait_for_the_slow(self) -> None:
        """Leave the FIFOs unread until every client has caught up or was dropped."""
        for reader in self._readers.values():
            reader.pause()
        try:
            while slow := [client for client in self._clients if client.backlog > HIGH_WATER // 2]:
                before = {client: client.backlog for client in slow}
                if not await _moves(before):
                    for client in slow:
                        log.warning("an attached client took no output for %d s: dropped", PATIENCE)
                        self.detach(client)
                        client.drop()
        finally:
            self._watch = None
            for reader in self._readers.values():
                reader.resume()

    async def drain(self, seconds: float) -> None:
        """After the process's end: wait until its output is read to the end.

        A process that left its stdout to another one that lives on must not keep the container from
        ending: what has not come after `seconds` is not waited for.
        """
        for reader in list(self._readers.values()):
            reader.take()
        while self._readers:
            if self._watch is not None:  # a slow client holds the reading up; it has its own limit
                await asyncio.wait([self._watch])
            try:
                await asyncio.wait_for(self._drained.wait(), seconds)
            except TimeoutError:
                if self._watch is None:
                    log.warning("output did not end within %g s of the process's end", seconds)
                    break
        self.close()

    def close(self) -> None:
        """Stop reading; what is in the pipes now is still taken."""
        for reader in list(self._readers.values()):
            reader.drain()

    def finish(self) -> None:
        """End every client's connection."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.finish()


async def _moves(before: Mapping[Client, int]) -> bool:
    """Whether any of the slow clients takes something within the time they have."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)  # only while a client is behind by megabytes
        if any(client.backlog < size for client, size in before.items()):
            return True
    return False


def streams_of(folder: Path, prefix: str, *, tty: bool) -> dict[int, Path]:
    """Where a process's output FIFOs are; a terminal has no stderr of its own."""
    paths = {STDOUT: folder / f"{prefix}-stdout"}
    if not tty:
        paths[STDERR] = folder / f"{prefix}-stderr"
    return paths
