"""A person at a terminal, for tests of programs that want one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Self

PATIENCE = 20.0


class Person:
    """One who sits at a terminal and has started a program there."""

    def __init__(
        self, command: list[str], size: tuple[int, int] = (30, 90), stdout: int | None = None
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.program = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait(PATIENCE)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def see(self, text: str) -> None:
        """Wait until the terminal shows a text."""
        self._look(lambda: text in self.seen, f"{text!r} is shown")

    def leave(self) -> int:
        """Wait for the program's end; its exit code."""
        self._look(lambda: self.program.poll() is not None, "the program ends")
        return self.program.returncode

    def _look(self, enough: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not enough():
            assert time.monotonic() < deadline, f"not in time: {what}; shown: {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode()
            elif self.program.poll() is not None:
                assert enough(), f"the program ended before {what}; shown: {self.seen!r}"

    def settings(self) -> list[object]:
        return termios.tcgetattr(self.slave)
