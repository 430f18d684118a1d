"""Being told when the kernel kills a container's process for lack of memory.

watch = cgroup.oom_events()
poll.register(watch, select.POLLIN)
...
if watch.killed(): ...
if watch.gone: stop polling, close      (v2 has to be asked, see OomWatchV2)
"""

import ctypes
import errno
import os

from cutaway.errors import NotFound, Unknown
from cutaway.linux.cgroups import files

_IN_MODIFY = 0x2


class OomWatch:
    """A descriptor that becomes readable when there may be news."""

    def __init__(self, fd: int, counter: str) -> None:
        self._fd = fd
        self._counter = counter
        self._seen = files.read_map(counter).get("oom_kill", 0)
        self.gone = False  # the cgroup was removed: nothing will come any more

    def fileno(self) -> int:
        return self._fd

    def killed(self) -> bool:
        """Take what the descriptor has, without waiting; True if a kill happened since the last call."""
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return False
        return self._news()

    def _news(self) -> bool:
        if not files.exists(self._counter):
            self.gone = True
            return False
        return self._counted()

    def _counted(self) -> bool:
        count = files.read_map(self._counter).get("oom_kill", 0)
        fresh, self._seen = count > self._seen, count
        return fresh

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OomWatchV1(OomWatch):
    """An eventfd named to memory.oom_control through cgroup.event_control; removal fires it as well."""

    def __init__(self, directory: str) -> None:
        control = f"{directory}/memory.oom_control"
        try:
            source = os.open(control, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"{directory} does not exist") from None
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            files.write(f"{directory}/cgroup.event_control", f"{event} {source}")
            super().__init__(event, control)
        except BaseException:
            os.close(event)
            raise
        finally:
            os.close(source)

    def _counted(self) -> bool:
        """The event alone counts where the kernel has no counter (before Linux 4.13).

        It also comes before the counter has moved: an event that is not a removal is an OOM.
        """
        super()._counted()
        return True


class OomWatchV2(OomWatch):
    """inotify on memory.events: the kernel reports a modification at every change of a count.

    It reports no removal (seen on Linux 6.1; kernfs has none for a watched file), so `gone` only becomes
    true at a call of `killed`: whoever waits must learn of the container's end by other means.
    """

    def __init__(self, directory: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            raise Unknown(f"inotify_init1: {os.strerror(ctypes.get_errno())}")
        try:
            path = f"{directory}/memory.events"
            if libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
                code = ctypes.get_errno()
                cls = NotFound if code == errno.ENOENT else Unknown
                raise cls(f"failed to watch {path}: {os.strerror(code)}")
            super().__init__(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def killed(self) -> bool:
        """The counter is looked at in any case: the kernel's notice comes later, from a work queue."""
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return self._news()
        return self._news()
