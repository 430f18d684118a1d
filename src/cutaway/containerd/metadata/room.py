"""Room on the disk that is kept for metadata, so that a full disk can still be told to forget things.

    metadata.db-wal   the write-ahead log, ROOM bytes from the start; moved into the database after half of it
    ballast           ROOM bytes more; they go when a deletion does not find room, and come back before
                      anything is added again

A log that cannot be moved into the database, because that cannot grow, grows itself until its room is used
up. With the ballast gone the database can grow by all that the log holds, and the log begins anew.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from cutaway.errors import ResourceExhausted

log = logging.getLogger("containerd.metadata")

ROOM = 4 << 20


def reserve(path: Path) -> None:
    """Give the write-ahead log its room in advance, so that a full disk can still be told to forget things.

    SQLite starts from the log's beginning after each checkpoint and does not mind what lies behind its end.
    """
    try:
        fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, ROOM)
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("no room is reserved for metadata: %s", error.strerror)


class Ballast:
    """A file that takes room as long as there is some, to be dropped when there is none. Blocks.

    As large as the log can grow while it waits for room in the database: with so much the log can be emptied.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._there = False
        with suppress(ResourceExhausted):
            self.restore()

    def restore(self) -> None:
        """Take the room again. Raises `ResourceExhausted` while there is none: nothing is to be added."""
        if self._there:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, ROOM)
            except OSError:
                self._path.unlink()
                raise
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                log.warning("no room is kept for metadata: %s", error.strerror)
                return
            raise ResourceExhausted("metadata cannot be written: no space left on device") from None
        self._there = True

    def drop(self) -> bool:
        """Give the room up; whether there was some."""
        there, self._there = self._there, False
        self._path.unlink(missing_ok=True)
        return there
