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

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


def run(context: "Context", parsed: "Parsed") -> int:
    """Print events as JSON lines until the container stops, or one with --stats; 0."""
    interval = _milliseconds(parsed.text("interval", "5s"))
    container = state.load(context.root, parsed.arguments[0])
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
    import os
    import select

    pidfd = processes.pidfd_open(container.record.pid)
    kills = container.cgroup().oom_kills()
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    try:
        while not poller.poll(interval):
            _stats(container)
            now = container.cgroup().oom_kills()
            for _ in range(now - kills):
                _emit(container, "oom")
            kills = now
    finally:
        os.close(pidfd)


def _milliseconds(text: str) -> int:
    number = text.rstrip("smh")
    unit = text[len(number) :]
    if not number.replace(".", "", 1).isdecimal() or unit not in _UNITS or float(number) <= 0:
        raise InvalidArgument(f"invalid duration for --interval: {text!r}")
    return max(1, int(float(number) * _UNITS[unit]))
