"""`events`: a container's statistics, once or again and again, and its out-of-memory kills."""

import sys

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux import processes
from cutaway.oci import jsontext
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.state import Container

_INTERVAL = 5000  # milliseconds


def run(context: "Context", parsed: "Parsed") -> int:
    """Print events as JSON lines until the container stops, or one with --stats; 0."""
    interval = parsed.number("interval", _INTERVAL)
    container = state.load(context.root, parsed.arguments[0])
    if interval <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    if container.status() == state.STOPPED:
        raise FailedPrecondition(f"container with id {container.id} is not running")
    if parsed.flag("stats"):
        _stats(container)
    else:
        _follow(container, interval)
    return 0


def _stats(container: "Container") -> None:
    _emit(container, "stats", container.cgroup().stats().to_json())


def _emit(container: "Container", kind: str, data: "dict[str, object] | None" = None) -> None:
    event: dict[str, object] = {"type": kind, "id": container.id}
    if data is not None:
        event["data"] = data
    sys.stdout.write(jsontext.dumps(event) + "\n")
    sys.stdout.flush()


def _follow(container: "Container", interval: int) -> None:
    """Statistics at their times, a kill for lack of memory at once, until the container ends."""
    import os
    import select
    import time

    pidfd = processes.pidfd_open(container.record.pid)
    watch = container.cgroup().oom_events()
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(watch, select.POLLIN)
    due = time.monotonic() + interval / 1000
    try:
        ended = False
        while not ended:
            ready = [fd for fd, _ in poller.poll(max(0, due - time.monotonic()) * 1000)]
            ended = pidfd in ready
            if watch.killed():
                _emit(container, "oom")
            if not ready:
                _stats(container)
                due += interval / 1000
    finally:
        watch.close()
        os.close(pidfd)
