"""A runtime that an attacker gets in the way of at every step: two names are exchanged between its calls.

What looks first and uses afterwards, by the same path, is found out for certain, not once in many tries: in
a container's first process, before each call that walks a path, or each second or third, this process is
asked to exchange the names, and waited for. (Who is in the mount namespace cannot: names that something is
mounted on are busy there.)
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.peers import VENV_BIN

SCRIPT = """#!{python}
import os, sys
sys.path[:0] = {path!r}
from cutaway.linux import libc
from cutaway.runc.main import main

ask, answer = (os.open(name, os.O_RDWR | os.O_CLOEXEC) for name in {fifos!r})
period, count = map(int, open({pace!r}).read().split())
runtime = os.getpid()

def turn():
    global count
    if os.getpid() == runtime:
        return
    count += 1
    if count % period == 0:
        os.write(ask, b"x")
        os.read(answer, 1)

def after_a_turn(call):
    def turned(*arguments, **options):
        turn()
        return call(*arguments, **options)
    return turned

def raw(name, *arguments):
    if name in ("openat2", "open_tree", "move_mount", "mount"):
        turn()
    return system_call(name, *arguments)

for name in ("open", "stat", "mkdir", "mknod", "readlink", "symlink", "unlink", "makedirs"):
    setattr(os, name, after_a_turn(getattr(os, name)))
libc.raw, system_call = raw, libc.raw
sys.exit(main())
"""

_AT_FDCWD, _EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Turns:
    """Makes the runtime's script; `exchanging` serves what it asks for."""

    def __init__(self, place: Path) -> None:
        self.script = place / "cutaway-runc"
        self._fifos = [os.fspath(place / name) for name in ("ask", "answer")]
        self._pace = place / "pace"
        packages = [path for path in sys.path if path.startswith(os.fspath(VENV_BIN.parent))]
        source = os.fspath(Path(__file__).parents[2] / "src")
        for fifo in self._fifos:
            os.mkfifo(fifo)
        self.script.write_text(
            SCRIPT.format(
                python=sys.executable,
                path=[source, *packages],
                fifos=self._fifos,
                pace=os.fspath(self._pace),
            )
        )
        self.script.chmod(0o755)

    @contextmanager
    def exchanging(self, one: Path, other: Path) -> Iterator[Iterator[int]]:
        """Gives numbers: for each, a call of the runtime meets the exchanges at another pace."""
        ask, answer = (os.open(name, os.O_RDWR | os.O_CLOEXEC) for name in self._fifos)

        def serve() -> None:
            while os.read(ask, 1) == b"x":
                exchange(one, other)
                os.write(answer, b"y")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield self._paces(one, other)
        finally:
            os.write(ask, b"q")
            thread.join()
            os.close(ask)
            os.close(answer)

    def _paces(self, one: Path, other: Path) -> Iterator[int]:
        original = one.lstat().st_ino
        number = 0
        for period in (1, 2, 3):
            for phase in range(period):
                for begun in (True, False):
                    self._pace.write_text(f"{period} {phase}")
                    if (one.lstat().st_ino == original) != begun:
                        exchange(one, other)
                    yield number
                    number += 1


def exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE. Raises OSError."""
    words = (ctypes.c_char_p(os.fsencode(path)) for path in (one, other))
    first, second = words
    if _libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"exchange {one} and {other}: {os.strerror(code)}")
