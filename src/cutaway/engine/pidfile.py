"""The daemon's pid file: one daemon per file, and a stale one is no obstacle.

A pid alone proves nothing after a crash: it may be another program's by now. So the owner keeps the
file locked (flock) for as long as it lives, and the kernel drops the lock with the process.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutaway.errors import FailedPrecondition


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the pid file while the block runs; it is removed afterwards.

    Raises `FailedPrecondition` if a living process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise FailedPrecondition(
                f"process {holder or '?'} holds {path}: another cutawayd is running; stop it or use --pidfile"
            ) from None
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # its owner removed it between our open and our lock


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
