"""`start`: make the socket, print where it listens, leave the daemon running. What is printed, and in which
form, is the caller's wish: see `bootstrap`.

The caller reads stdout and stderr until both are closed, so the daemon keeps neither; what it has
to say later goes to the bundle's `log` FIFO.
"""

import os
import sys

from cutaway.errors import CutawayError, Unknown
from cutaway.faults import point
from cutaway.linux import smallfile
from cutaway.shim import address
from cutaway.shim.bootstrap import Bootstrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import NoReturn

    from cutaway.shim.arguments import Arguments
    from cutaway.shim.daemon import Parts

_MAX_OOM_SCORE = 1000
_MAX_GIVEN = 10 << 20  # as containerd's shim
_CHUNK = 1 << 16


# In a fork of the zygote: says that this command has ended, with 0, although its process lives on.
leave: "Callable[[], None] | None" = None
# In one that was forked ahead (see `waiting`): what it has made of the daemon, being settled.
parts: "Parts | None" = None


def start(arguments: "Arguments") -> int:
    """Start a shim, or name the one that the container's group has. The bundle is the current folder."""
    bundle = os.getcwd()
    given = _given()
    caller = Bootstrap(given, arguments)
    group = address.group_of(bundle, arguments["id"])
    folder = address.folder(bundle, caller.socket_dir)
    path = address.path_for(arguments["address"], arguments["namespace"], group, folder)
    answer = caller.answer(address.SCHEME + path)
    # Noted before it is there: should we die, whoever cleans up finds the socket by the note.
    _write_address(f"{bundle}/address", address.SCHEME + path)
    listener = address.listen(path)
    point("shim.start.listening")
    if listener is not None:
        try:
            if given:
                _join_cgroup(caller)
            pid = os.fork() if leave is None else 0
        except BaseException:
            address.remove(path)
            raise
        if pid == 0:
            _be_daemon(arguments, caller, listener, path, answer)
        listener.close()
    os.write(1, answer)
    return 0


def _given() -> bytes:
    """What came on stdin; nothing where that is closed."""
    data = b""
    try:
        while len(data) < _MAX_GIVEN and (piece := os.read(0, _CHUNK)):
            data += piece
    except OSError as error:
        if error.errno != 9:  # EBADF
            raise
    return data


def _write_address(path: str, text: str) -> None:
    """Whole or not at all: a restarted container service reads it."""
    temporary = f"{path}.new"
    smallfile.write(temporary, text.encode(), 0o644)
    point("shim.start.before-address")
    os.rename(temporary, path)
    point("shim.start.address-noted")


def _join_cgroup(caller: Bootstrap) -> None:
    """Into the cgroup that the options name for the shim, before there is one. Raises `Unknown`."""
    wanted = caller.options().shim_cgroup
    if not wanted:
        return
    from cutaway.linux import cgroups

    try:
        paths = cgroups.manager(f"/{wanted.lstrip('/')}", "shim").paths()
        # A client makes it in the hierarchies that it cares for; often not in v2's beside those of v1.
        there = {controller: path for controller, path in paths.items() if os.path.isdir(path)}
        cgroups.from_paths(there or paths).add(os.getpid())
    except (CutawayError, OSError) as error:
        raise Unknown(f"failed to join cgroup {wanted}: {error}") from None


def _be_daemon(
    arguments: "Arguments", caller: Bootstrap, listener: "socket.socket", path: str, answer: bytes
) -> "NoReturn":
    """In the child; or in the command's own process, if it can be left to go on."""
    code = 1
    try:
        if leave is not None:
            os.write(1, answer)
        point("shim.start.answered")
        if leave is None:
            address.take_over(listener)
        if parts is None:
            settle()
        _detach()
        if leave is not None:
            leave()
        point("shim.start.left")
        from cutaway.shim.daemon import run

        code = run(arguments, caller, listener, path, parts)
    except BaseException as error:  # noqa: BLE001 - the last thing that can be done with it
        from cutaway.shim import log

        log.failure("the shim has failed", error)
    finally:
        os._exit(code)


def settle() -> None:
    """Leave the caller's session, and be the first to go when memory runs out."""
    os.setsid()
    _raise_oom_score()


def _detach() -> None:
    """stdin and stdout to nowhere; stderr to the log, without blocking on a reader that is slow or gone."""
    null = os.open("/dev/null", os.O_RDWR)
    try:
        # With both ends a reader's restart does not break the writer.
        log = os.open("log", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        log = os.dup(null)
    for target, fd in enumerate((null, null, log)):
        os.dup2(fd, target)
    for fd in (null, log):
        if fd > 2:
            os.close(fd)


def _raise_oom_score() -> None:
    """One above the container service: the kernel is to take the shim first (and the container before it)."""
    try:
        score = int(smallfile.read_at_once("/proc/self/oom_score_adj"))
        smallfile.write("/proc/self/oom_score_adj", b"%d" % min(score + 1, _MAX_OOM_SCORE), 0o600)
    except OSError as error:
        print(f"oom_score_adj of the shim: {error.strerror}", file=sys.stderr)
