"""Telling the world when the kernel kills in a container for lack of memory."""

from cutaway.errors import CutawayError
from cutaway.shim import log
from cutaway.shim.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.linux.cgroups.base import Manager
    from cutaway.linux.cgroups.oom import OomWatch
    from cutaway.shim.loop import Loop


class OomWatcher:
    """Watches each container's memory cgroup (v1: eventfd, v2: memory.events)."""

    def __init__(self, loop: "Loop", tell: "Callable[[str], None]") -> None:
        self._loop = loop
        self._tell = tell
        self._watches: dict[str, OomWatch | None] = {}

    def watch(self, container: str, cgroup: "Callable[[], Manager]") -> None:
        """Begin, once, when the reply to the caller is out; a machine without the means is not an error."""
        if container not in self._watches:
            self._watches[container] = None
            self._loop.soon(lambda: self._begin(container, cgroup))

    def _begin(self, container: str, cgroup: "Callable[[], Manager]") -> None:
        if container not in self._watches:
            return
        try:
            watch = cgroup().oom_events()
        except (CutawayError, OSError) as error:
            log.debug(f"no OOM events for {container}: {error}")
            return
        self._watches[container] = watch
        self._loop.watch(watch.fileno(), READ, lambda _: self._woken(container))

    def _woken(self, container: str) -> None:
        watch = self._watches[container]
        if watch is None:
            return
        if watch.killed():
            self._tell(container)
        if watch.gone:
            self.forget(container)

    def forget(self, container: str) -> None:
        """The init has ended. What happened just before is still told."""
        watch = self._watches.get(container)
        if watch is not None and not watch.gone and watch.killed():
            self._tell(container)
        if self._watches.pop(container, None) is not None and watch is not None:
            self._loop.forget(watch.fileno())
            watch.close()
