"""Transactions on the metadata database.

One thread writes, one reads, and the event loop looks things up, each with its own connection, so that
nobody ever meets a locked database, and a long commit delays no reader. A function that is given to
`write` sees one transaction: it takes effect as a whole or, when the function raises, not at all.

SQLite runs in WAL mode with `synchronous=NORMAL`: a killed daemon loses nothing; a machine that loses
power may lose the last transactions, never their order. Who then destroys what a lost transaction would
still refer to writes durably.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cutaway.containerd.metadata.room import ROOM, Ballast, reserve
from cutaway.containerd.metadata.schema import migrate
from cutaway.errors import FailedPrecondition
from cutaway.faults import point

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("containerd.metadata")

_PAGE = 4096

_PRAGMAS = (
    f"page_size={_PAGE}",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    "temp_store=MEMORY",
    f"wal_autocheckpoint={ROOM // 2 // _PAGE}",
)

Transaction = sqlite3.Connection
"""What the functions given to `read` and `write` get: a connection within a transaction."""


class Database:
    """The metadata of one daemon."""

    def __init__(self, path: Path) -> None:
        """Open or create the database and bring it up to date. Raises `FailedPrecondition`."""
        self._writer = _opened(path)
        point("containerd.metadata.before-reserve")
        reserve(path)
        self._ballast = Ballast(path.with_name("ballast"))
        self._reader = connect(path)
        self._lookup = connect(path)
        self.on_change: Callable[[], None] = lambda: None
        """Called on the event loop after each `write`."""
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="metadata-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="metadata-read")

    async def write(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function in a transaction that may change things.

        A caller that is cancelled stops waiting; the transaction is made all the same.
        Raises `ResourceExhausted` when the disk is full.
        """

        def unless_full() -> T:
            self._ballast.restore()
            return self.write_now(function, *args, **kwargs)

        result = await _on(self._write_thread, unless_full)
        self.on_change()
        return result

    async def release(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, for what makes room: it is done on a full disk too, with room kept for that."""
        result = await _on(self._write_thread, lambda: self._released(function, *args, **kwargs))
        self.on_change()
        return result

    async def write_durably(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `release`, and returns when this and all transactions before it are on the disk."""

        def durably() -> T:
            self._writer.execute("PRAGMA synchronous=FULL")
            try:
                return self._released(function, *args, **kwargs)
            finally:
                self._writer.execute("PRAGMA synchronous=NORMAL")

        return await _on(self._write_thread, durably)

    def _released(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return self.write_now(function, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._ballast.drop():
                raise
        log.warning("the disk is full: metadata uses the room that it has kept")
        # What the log holds finds its place in the database now, so that the log can begin anew.
        self._writer.execute("PRAGMA wal_checkpoint")
        return self.write_now(function, *args, **kwargs)

    async def read(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function on one consistent state, which holds all that was written before.

        For what may take a while, such as a search.
        """
        return await _on(self._read_thread, lambda: self.read_now(function, *args, **kwargs))

    def look_up(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, on the event loop's thread: for one record or a few, found by their keys.

        That takes microseconds, of which handing it to a thread would make a multiple.
        """
        return _read(self._lookup, function, *args, **kwargs)

    def write_now(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, before any thread is running (at the daemon's start)."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            result = function(self._writer, *args, **kwargs)
            point("containerd.metadata.before-commit")
            self._writer.execute("COMMIT")
            point("containerd.metadata.committed")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return result

    def read_now(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, before any thread is running."""
        return _read(self._reader, function, *args, **kwargs)

    def close(self) -> None:
        """Wait for what runs, then close."""
        for thread in (self._write_thread, self._read_thread):
            thread.shutdown(wait=True)
        self._lookup.close()
        self._reader.close()
        self._writer.close()


def _read(
    connection: Transaction,
    function: Callable[Concatenate[Transaction, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    connection.execute("BEGIN")
    try:
        return function(connection, *args, **kwargs)
    finally:
        connection.execute("COMMIT")


async def _on(thread: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(thread, context.run, function)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        connection = connect(path)
    except sqlite3.Error as error:
        raise _unusable(path, error) from None
    try:
        migrate(connection)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _unusable(path: Path, error: sqlite3.Error) -> FailedPrecondition:
    return FailedPrecondition(
        f"metadata in {path} cannot be used: {error}; restore it, or choose another --root"
    )


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def server_uuid(tx: Transaction) -> str:
    """The daemon's identity, made on the first start."""
    tx.execute("INSERT OR IGNORE INTO settings VALUES ('uuid', ?)", (str(uuid.uuid4()),))
    (found,) = tx.execute("SELECT value FROM settings WHERE name = 'uuid'").fetchone()
    return str(found)
