"""Traces in SQLite, in a file and on a thread of their own: recording must stay out of a run's way.

    traces.db (WAL, synchronous=OFF: a power cut may cost traces, never containers)
    └── exports   what came, when ▸ the trace it speaks of, OTLP/JSON as it was sent

Spans are kept as they came and are looked into when somebody asks for them, which is seldom: a run makes
a hundred, and decoding each cost more of a processor than the rest of the engine's part in it.
Bounded: `MAX_BYTES` in all, the oldest going first, and `MAX_SPANS_PER_TRACE` to whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cutaway.engine.state.database import open_database
from cutaway.errors import CutawayError
from cutaway.oci import jsontext
from cutaway.trace import otlp
from cutaway.trace.collect import TraceSpan, decode_request
from cutaway.trace.spans import Span

log = logging.getLogger(__name__)

MAX_SPANS_PER_TRACE: Final = 2_000
MAX_BYTES: Final = 128 << 20
_PRUNE_EVERY: Final = 4 << 20
_GATHER_SECONDS: Final = 0.05

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE exports (
        number   INTEGER PRIMARY KEY,
        trace_id TEXT NOT NULL,
        size     INTEGER NOT NULL,
        body     TEXT NOT NULL
    ) STRICT;
    CREATE INDEX exports_by_trace ON exports (trace_id);
    """,
)

_TRACE_ID = re.compile(r'"traceId"\s*:\s*"([0-9a-f]{32})"')

_Reader = Callable[[sqlite3.Connection], None]
_Item = Span | str | _Reader | None


class TraceStore:
    """The collector's memory. `record` is the sink for spans of this process."""

    def __init__(self, path: Path, forward: str = "") -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._urgent = threading.Event()
        """Set when somebody waits for what is queued."""
        self._forward = otlp.Background(forward) if forward else None
        self._since_prune = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def record(self, span: Span) -> None:
        """Keep a finished span of ours; costs an append to a queue."""
        self._queue.put(span)
        if self._forward is not None:
            self._forward(span)

    def add(self, body: str) -> None:
        """Keep spans that others have sent: an ExportTraceServiceRequest in OTLP/JSON, unread."""
        self._queue.put(body)

    async def spans(self, trace_id: str) -> list[TraceSpan]:
        """A trace's spans in the order they began, all that was recorded before the call among them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[TraceSpan]] = loop.create_future()

        def read(connection: sqlite3.Connection) -> None:
            rows = connection.execute(
                "SELECT body FROM exports WHERE trace_id = ? ORDER BY number", (trace_id,)
            ).fetchall()
            loop.call_soon_threadsafe(_resolve, future, spans_in([body for (body,) in rows], trace_id))

        self._queue.put(read)
        self._urgent.set()
        return await future

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._queue.put(None)
        self._urgent.set()
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
        """Something, and whatever comes within a moment of it: one transaction for a burst.

        The moment is slept through: to be woken for every span would cost the run that makes them more
        than the spans themselves do.
        """
        items: list[_Item] = [self._queue.get()]
        if not (callable(items[0]) or items[0] is None):
            self._urgent.wait(_GATHER_SECONDS)
        self._urgent.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                items.append(self._queue.get_nowait())
        return items

    def _write(self, connection: sqlite3.Connection, items: Sequence[_Item]) -> None:
        own = [item for item in items if isinstance(item, Span)]
        bodies = [item for item in items if isinstance(item, str)]
        if own:
            bodies.append(jsontext.dumps(otlp.encode(own)))
        rows = [(trace_id, len(body), body) for body in bodies for trace_id in traces_in(body)]
        if not rows:
            return
        with connection:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO exports (trace_id, size, body) VALUES (?, ?, ?)", rows)
            self._prune(connection, sum(size for _, size, _ in rows))

    def _prune(self, connection: sqlite3.Connection, written: int) -> None:
        self._since_prune += written
        if self._since_prune < _PRUNE_EVERY:
            return
        self._since_prune = 0
        connection.execute(
            "DELETE FROM exports WHERE number <= (SELECT max(number) FROM "
            "(SELECT number, sum(size) OVER (ORDER BY number DESC) AS newer FROM exports) WHERE newer > ?)",
            (MAX_BYTES,),
        )


def traces_in(body: str) -> set[str]:
    """The traces that an export speaks of."""
    return set(_TRACE_ID.findall(body))


def spans_in(bodies: Sequence[str], trace_id: str) -> list[TraceSpan]:
    """The spans of one trace in what was kept, the latest sent of each, in the order they began."""
    found: dict[str, TraceSpan] = {}
    for body in bodies:
        try:
            spans = decode_request(jsontext.loads(body))
        except (CutawayError, ValueError, RecursionError) as error:
            log.warning("an export of trace %s cannot be read: %s", trace_id, error)
            continue
        found.update((span.span_id, span) for span in spans if span.trace_id == trace_id)
    return sorted(found.values(), key=lambda span: span.start_ns)[-MAX_SPANS_PER_TRACE:]


def _resolve(future: asyncio.Future[list[TraceSpan]], found: list[TraceSpan]) -> None:
    if not future.done():
        future.set_result(found)
