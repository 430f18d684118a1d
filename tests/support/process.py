"""Processes of a test: start, wait for, stop, and find again what they left.

Waiting is by poll on a pidfd, or by trying what is waited for with a poll between the tries that
the process's end cuts short; nothing sleeps.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.pace import SLOWNESS

if TYPE_CHECKING:
    from support.netns import NetNs

# Waiting for something that only trying can tell: this long between two tries, and no longer in all.
TRY_EVERY: Final = 0.01
READY_WITHIN: Final = 30.0 * SLOWNESS

# How much of a log is shown.
LOG_LINES: Final = 30
LOG_COLUMNS: Final = 400


class ProcessFailed(AssertionError):
    """A process that a test relies on has ended or is not ready in time; shows the end of its log."""


class Process:
    """A process with its output in a file, which whoever reads of a failure is shown."""

    live: weakref.WeakSet[Process] = weakref.WeakSet()

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        netns: NetNs,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        self.log = log
        with log.open("ab") as output:
            self._popen = netns.popen(self.command, env=env, cwd=cwd, output=output)
        Process.live.add(self)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, or None while the process runs."""
        return self._popen.poll()

    def wait(self, timeout: float = READY_WITHIN) -> int:
        """Wait for the process's end and return its exit code."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.failure(f"still running after {timeout:g} s") from None

    def wait_ready(self, ready: Callable[[], bool], what: str, timeout: float = READY_WITHIN) -> None:
        """Try until the process is ready. Its end, or too long a wait, is a failure."""
        deadline = time.monotonic() + timeout
        while not ready():
            if has_ended(self.pid, TRY_EVERY):
                raise self.failure(f"ended with exit code {self._popen.wait()} before {what}")
            if time.monotonic() > deadline:
                raise self.failure(f"not ready after {timeout:g} s: {what}")

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0 * SLOWNESS) -> int:
        """End the process with a signal, or with SIGKILL if that takes too long; return its exit code."""
        if self.returncode is None:
            self._popen.send_signal(number)
            if not has_ended(self.pid, timeout):
                self._popen.kill()
        Process.live.discard(self)
        return self._popen.wait()

    def kill(self) -> int:
        """End the process as a crash would."""
        return self.stop(signal.SIGKILL)

    def kill_tree(self) -> None:
        """End the process and all its descendants."""
        kill_tree(self.pid)
        self.stop(signal.SIGKILL)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def log_tail(self) -> str:
        """The end of the log."""
        return "\n".join(line[:LOG_COLUMNS] for line in self.log_text().splitlines()[-LOG_LINES:])

    def failure(self, what: str) -> ProcessFailed:
        """An exception that says what went wrong and shows the command and the end of its log."""
        return ProcessFailed(f"{self.command[0]}: {what}\n$ {' '.join(self.command)}\n{self.log_tail()}")


def has_ended(pid: int, timeout: float = 0.0) -> bool:
    """Wait for a process's end, reaped or not; say whether it came in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0 * SLOWNESS) -> None:
    """Try a condition until it holds; for things that tell nobody when they come."""
    deadline = time.monotonic() + timeout
    pause = select.poll()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {timeout:g} s: {what}")
        pause.poll(TRY_EVERY * 1000)


def children() -> dict[int, list[int]]:
    """Every process of the machine with its children."""
    tree: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it has ended
        parent = int(stat.rpartition(")")[2].split()[1])
        tree.setdefault(parent, []).append(int(entry.name))
    return tree


def descendants(*pids: int) -> list[int]:
    """The children of processes, their children, and so on; without the processes themselves."""
    tree = children()
    found: list[int] = []
    todo = list(pids)
    while todo:
        offspring = tree.get(todo.pop(), [])
        found += offspring
        todo += offspring
    return found


def kill_tree(*pids: int) -> None:
    """Kill processes and all their descendants, and wait until they have ended.

    They are stopped first: a stopped process forks no more, so that none is missed.
    """
    doomed: set[int] = set()
    while fresh := {*pids, *descendants(*pids, *doomed)} - doomed:
        signal_each(fresh, signal.SIGSTOP)
        doomed |= fresh
    signal_each(doomed, signal.SIGKILL)
    for pid in doomed:
        has_ended(pid, timeout=10.0 * SLOWNESS)


def kill_all(find: Callable[[], Iterable[int]], rounds: int = 10) -> None:
    """Kill whoever is found, with descendants, until nobody is: a dying parent may hand over a child."""
    for _ in range(rounds):
        found = [pid for pid in find() if not is_zombie(pid)]
        if not found:
            return
        kill_tree(*found)


def signal_each(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def name_of(pid: int) -> str:
    """What `ps` shows as a process's name, 15 bytes at most; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def processes_of(folder: Path) -> dict[int, str]:
    """The processes that work below a folder, with their command lines.

    Such are those that name it in their command line or environment, have it as current folder, or
    have a root of their own with a mount from it (the inside of a container); and the descendants
    of all these.
    """
    us = ourselves()
    entries = [entry for entry in Path("/proc").glob("[0-9]*") if int(entry.name) not in us]
    own = [int(entry.name) for entry in entries if works_below(entry, os.fsencode(folder))]
    found = {*own, *descendants(*own)} - us
    return {pid: command_line(pid) for pid in sorted(found) if not is_zombie(pid)}


def ourselves() -> set[int]:
    """The running test and who started it: these name folders too."""
    pid, found = os.getpid(), set[int]()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def works_below(process: Path, folder: bytes) -> bool:
    try:
        if names_folder(os.fsencode(os.readlink(process / "cwd")), folder):
            return True
        if any(names_folder((process / source).read_bytes(), folder) for source in ("cmdline", "environ")):
            return True
        mounts = (process / "mountinfo").read_bytes()
        # With the root that we have it sees a copy of our mounts, other stacks' and this one's alike.
        return root_of(mounts) != root_of(Path("/proc/self/mountinfo").read_bytes()) and names_folder(
            mounts, folder
        )
    except OSError:
        return False  # it has ended


def root_of(mounts: bytes) -> list[bytes]:
    """Device and path in it of what is mounted at /, from the text of a mountinfo file (proc(5))."""
    fields = (line.split() for line in mounts.splitlines())
    return [part for field in fields if field[4] == b"/" for part in field[2:4]]


def names_folder(text: bytes, folder: bytes) -> bool:
    """Whether a folder, or something below it, is named; /tmp/cw-1 is not in /tmp/cw-12."""
    parts = text.split(folder)[1:]
    return any(not part[:1].isalnum() and part[:1] not in (b"-", b"_") for part in parts)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"
