"""The engine's state file, and the list of what turned each version of it into the next.

    engine.db (SQLite, WAL, synchronous=NORMAL)
    ├── containers   id ▸ name (unique), state, Docker's documents as JSON
    └── volumes      name ▸ labels, options, whether it has no name of its own

One connection, used from the event loop itself: a statement here costs some tens of microseconds, less
than handing it to a thread. In WAL mode with synchronous=NORMAL a commit outlives the death of this
process at any point; only a power cut may take the last ones, and then never a part of one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cutaway.errors import DataLoss, FailedPrecondition, ResourceExhausted

log = logging.getLogger("cutawayd.state")

# Bytes of the write-ahead log that are there from the start; a checkpoint comes after half of it.
ROOM: Final = 1 << 20
_PAGE: Final = 4096

# Ordered; never edit one that was released, append. PRAGMA user_version counts how many were applied.
MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE containers (
        id              TEXT PRIMARY KEY,
        name            TEXT NOT NULL UNIQUE,
        created_ns      INTEGER NOT NULL,
        image_id        TEXT NOT NULL,
        config          TEXT NOT NULL,
        host_config     TEXT NOT NULL,
        mounts          TEXT NOT NULL,
        mac_address     TEXT NOT NULL,
        traceparent     TEXT NOT NULL,
        status          TEXT NOT NULL,
        pid             INTEGER NOT NULL,
        exit_code       INTEGER NOT NULL,
        error           TEXT NOT NULL,
        oom_killed      INTEGER NOT NULL,
        started_ns      INTEGER NOT NULL,
        finished_ns     INTEGER NOT NULL,
        restart_count   INTEGER NOT NULL,
        stopped_by_user INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE volumes (
        name       TEXT PRIMARY KEY,
        created_ns INTEGER NOT NULL,
        labels     TEXT NOT NULL,
        options    TEXT NOT NULL,
        anonymous  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)


def open_database(path: Path, migrations: Sequence[str] = MIGRATIONS) -> sqlite3.Connection:
    """Open the file, made and brought up to date if need be.

    Raises `FailedPrecondition` for a file of a newer version, `DataLoss` for one that is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute(f"PRAGMA wal_autocheckpoint={ROOM // 2 // _PAGE}")
        migrate(connection, migrations)
    except sqlite3.DatabaseError as error:
        raise translated(error, path) from None
    _reserve(path)
    return connection


def _reserve(path: Path) -> None:
    """Give the write-ahead log its room in advance: on a full disk containers still end and are removed.

    SQLite writes it from the beginning again and again, and does not mind what lies behind its end.
    """
    try:
        fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, ROOM)
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("no room is kept for the engine's state: %s", error.strerror)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Apply what is missing, each step in a transaction of its own together with its number."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise FailedPrecondition(
            f"the state was written by a newer version (schema {version}; this one knows {len(migrations)}): "
            "use that version, or another --data-root"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT")


def translated(error: sqlite3.DatabaseError, path: Path) -> DataLoss | ResourceExhausted | FailedPrecondition:
    """What a user can do about an error of SQLite."""
    text = str(error)
    if "full" in text:
        return ResourceExhausted(f"{path}: no space left on the disk")
    if isinstance(error, sqlite3.OperationalError):
        return FailedPrecondition(f"{path}: {text}")
    return DataLoss(f"{path} is damaged ({text}): restore it or move it away; containers in it are lost")
