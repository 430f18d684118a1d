"""Spans in SQLite, in a file and on a thread of their own: recording must stay out of a run's way.

    traces.db (WAL, synchronous=OFF: a power cut may cost traces, never containers)
    └── spans   (trace_id, span_id) ▸ when it came, the span as JSON

Bounded: at most `MAX_SPANS_PER_TRACE` of a trace and `MAX_SPANS` in all; the oldest traces go first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cutaway.engine.state.database import open_database
from cutaway.oci.document import decode, dumps
from cutaway.trace.collect import TraceSpan
from cutaway.trace.otlp import Background
from cutaway.trace.spans import Span

log = logging.getLogger(__name__)

MAX_SPANS_PER_TRACE: Final = 2_000
MAX_SPANS: Final = 200_000
_PRUNE_EVERY: Final = 5_000
_GATHER_SECONDS: Final = 0.05

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE spans (
        number   INTEGER PRIMARY KEY,
        trace_id TEXT NOT NULL,
        span_id  TEXT NOT NULL,
        span     TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX spans_by_id ON spans (trace_id, span_id);
    """,
)

_Reader = Callable[[sqlite3.Connection], None]
_Item = Span | list[TraceSpan] | _Reader | None


class TraceStore:
    """The collector's memory. `record` is the sink for spans of this process."""

    def __init__(self, path: Path, forward: str = "") -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._forward = Background(forward) if forward else None
        self._since_prune = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def record(self, span: Span) -> None:
        """Keep a finished span of ours; costs an append to a queue."""
        self._queue.put(span)
        if self._forward is not None:
            self._forward(span)

    def add(self, spans: Sequence[TraceSpan]) -> None:
        """Keep spans that others have sent."""
        self._queue.put(list(spans))

    async def spans(self, trace_id: str) -> list[TraceSpan]:
        """A trace's spans in the order they began, all that was recorded before the call among them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[TraceSpan]] = loop.create_future()

        def read(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT span FROM spans WHERE trace_id = ?", (trace_id,)).fetchall()
            found = [decode(TraceSpan, json.loads(row[0])) for row in rows]
            found.sort(key=lambda span: span.start_ns)
            loop.call_soon_threadsafe(_resolve, future, found)

        self._queue.put(read)
        return await future

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=5)
        if self._forward is not None:
            self._forward.flush()

    # -- on the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            connection = self._open()
        except Exception:
            log.exception("traces are not kept: %s", self._path)
            connection = open_database(Path(":memory:"), MIGRATIONS)
        while True:
            items = self._gather()
            try:
                self._write(connection, items)
            except sqlite3.Error as error:
                log.warning("spans were dropped: %s: %s", self._path, error)
            for item in items:
                if callable(item):
                    item(connection)
            if None in items:
                connection.close()
                return

    def _open(self) -> sqlite3.Connection:
        connection = open_database(self._path, MIGRATIONS)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    def _gather(self) -> list[_Item]:
        """Something, and whatever comes within a moment of it: one transaction for a burst."""
        items: list[_Item] = [self._queue.get()]
        while not (callable(items[-1]) or items[-1] is None):
            try:
                items.append(self._queue.get(timeout=_GATHER_SECONDS))
            except queue.Empty:
                break
        return items

    def _write(self, connection: sqlite3.Connection, items: Sequence[_Item]) -> None:
        batch: list[TraceSpan] = []
        for item in items:
            if isinstance(item, Span):
                batch.append(_own(item))
            elif isinstance(item, list):
                batch += item
        if not batch:
            return
        rows = [(span.trace_id, span.span_id, dumps(span)) for span in batch]
        with connection:
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT OR REPLACE INTO spans (trace_id, span_id, span) VALUES (?, ?, ?)", rows
            )
            self._prune(connection, batch)

    def _prune(self, connection: sqlite3.Connection, batch: Sequence[TraceSpan]) -> None:
        for trace_id in {span.trace_id for span in batch}:
            connection.execute(
                "DELETE FROM spans WHERE trace_id = :id AND number <= (SELECT number FROM spans "
                "WHERE trace_id = :id ORDER BY number DESC LIMIT 1 OFFSET :limit)",
                {"id": trace_id, "limit": MAX_SPANS_PER_TRACE},
            )
        self._since_prune += len(batch)
        if self._since_prune >= _PRUNE_EVERY:
            self._since_prune = 0
            connection.execute(
                "DELETE FROM spans WHERE number <= (SELECT max(number) FROM spans) - ?", (MAX_SPANS,)
            )


def _own(span: Span) -> TraceSpan:
    """A span of this process in the form that is stored."""
    return TraceSpan(
        trace_id=span.context.trace_id,
        span_id=span.context.span_id,
        parent_id=span.parent_id,
        service=span.service,
        pid=span.pid,
        name=span.name,
        kind=span.kind,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        error=span.error,
        attributes={key: str(value) for key, value in span.attributes.items()},
    )


def _resolve(future: asyncio.Future[list[TraceSpan]], found: list[TraceSpan]) -> None:
    if not future.done():
        future.set_result(found)
