"""`daemon start|stop|status`: Cutaway's two daemons by hand, and by need for any other command.

Start is safe to call twice, and twice at once: a lock on a file in EXEC_ROOT lets one through at a time,
and whoever comes second finds them running. It returns when both daemons answer.
"""

import fcntl
import os
import sys
from contextlib import contextmanager

from cutaway.cli.client import Client
from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.failure import NoDaemon, UsageError
from cutaway.cli.flags import Flag
from cutaway.cli.stack import DATA_ROOT, EXEC_ROOT, Stack, listener
from cutaway.errors import CutawayError, InvalidArgument, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutaway.cli.flags import Values

ACTIONS = ("start", "stop", "status")
NOT_RUNNING = 3  # as in the LSB's "status" of a service


def run_daemon(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`daemon start [-- ENGINE FLAGS]`, `daemon stop`, `daemon status`."""
    action, extra = arguments[0], arguments[1:]
    if action not in ACTIONS:
        raise UsageError(f"{invocation.path}: expected {', '.join(ACTIONS)}, got '{action}'")
    if extra and action != "start":
        raise InvalidArgument(f'"{invocation.path} {action}" accepts no arguments')
    stack = _stack(invocation, values)
    if action == "start":
        return _start(stack, extra)
    return _stop(stack) if action == "stop" else _status(stack)


def _stack(invocation: Invocation, values: "Values") -> Stack:
    from cutaway.cli.main import DEFAULT_SOCKET, socket_of

    hosts = values.texts("host")
    socket_path = socket_of(hosts[-1]) if hosts else ""
    if not socket_path and invocation.client.socket_path != DEFAULT_SOCKET:
        socket_path = invocation.client.socket_path
    return Stack(values.text("data-root"), values.text("exec-root"), socket_path)


def start_for_client(socket_path: str) -> None:
    """Start the default stack because a command needs it; says so in one line."""
    stack = Stack(engine_socket=socket_path)
    print(
        f"No daemon is listening on unix://{socket_path}: starting one (logs in {stack.logs})",
        file=sys.stderr,
        flush=True,
    )
    start(stack, [])


def start(stack: Stack, extra: list[str]) -> list[str]:
    """Start what does not run yet; returns the names of what was started.

    Raises `Unavailable` when a daemon does not come up; what this call has started is stopped again.
    """
    _need_root("start")
    containerd, engine = stack.containerd(), stack.engine(extra)
    started: list[str] = []
    with _locked(stack):
        os.makedirs(stack.logs, mode=0o755, exist_ok=True)
        if containerd.start(lambda: listener(containerd.socket_path) > 0):
            started.append(containerd.name)
        try:
            if engine.start(lambda: _pings(engine.socket_path)):
                started.append(engine.name)
        except BaseException:
            if started:
                containerd.stop()
            raise
    return started


def _pings(socket_path: str) -> bool:
    """Whether an engine answers on the socket."""
    if not listener(socket_path):
        return False
    client = Client(socket_path)
    try:
        return client.ping()
    except CutawayError:
        return False
    finally:
        client.close()


def _start(stack: Stack, extra: list[str]) -> int:
    started = start(stack, extra)
    for daemon in (stack.containerd(), stack.engine()):
        how = "started" if daemon.name in started else "already running"
        print(f"{daemon.name} {how}: pid {daemon.pid()}, unix://{daemon.socket_path}, log {daemon.log}")
    return 0


def _stop(stack: Stack) -> int:
    _need_root("stop")
    if not os.path.isdir(stack.exec_root):
        print("not running")
        return 0
    with _locked(stack):
        for daemon in (stack.engine(), stack.containerd()):
            pid = daemon.stop()
            print(f"{daemon.name} stopped: pid {pid}" if pid else f"{daemon.name} not running")
    return 0


def _status(stack: Stack) -> int:
    """A line a daemon; exit code 3 unless both run."""
    versions = _versions(stack)
    complete = True
    for daemon in (stack.engine(), stack.containerd()):
        pid = daemon.pid()
        complete = complete and pid > 0
        state = (
            f"running, pid {pid}, {versions.get(daemon.name) or 'version unknown'}" if pid else "not running"
        )
        print(f"{daemon.name:20} {state}, unix://{daemon.socket_path}")
    return 0 if complete else NOT_RUNNING


def _versions(stack: Stack) -> dict[str, str]:
    """The versions, as the engine knows them."""
    try:
        found = Client(stack.engine_socket).call("GET", "/version") or {}
    except (NoDaemon, CutawayError):
        return {}
    parts = {part.get("Name"): str(part.get("Version")) for part in found.get("Components") or []}
    versions = {
        "cutawayd": str(found.get("Version") or ""),
        "cutaway-containerd": parts.get("containerd", ""),
    }
    return {name: f"version {version}" for name, version in versions.items() if version}


def _need_root(action: str) -> None:
    if os.geteuid() != 0:
        raise PermissionDenied(f"only root can {action} the daemons: sudo cutaway daemon {action}")


@contextmanager
def _locked(stack: Stack) -> "Iterator[None]":
    """Alone with this stack's daemons until the block ends."""
    os.makedirs(stack.exec_root, mode=0o711, exist_ok=True)
    descriptor = os.open(f"{stack.exec_root}/daemon.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


DAEMON = Command(
    run_daemon,
    "Start, stop and look after Cutaway's daemons",
    "start|stop|status [-- ENGINE FLAGS]",
    least=1,
    most=UNLIMITED,
    flags=(
        Flag("data-root", "", "string", "Where images and containers are kept", DATA_ROOT),
        Flag("exec-root", "", "string", "Where sockets and what runs are kept", EXEC_ROOT),
        Flag("host", "H", "list", "The engine's socket (default unix://EXEC_ROOT/cutaway.sock)"),
    ),
)
