"""The zygote: a process that has shim and runtime in memory, and forks shims.

    python -m cutaway.shim.zygote FD

FD is one end of a SOCK_SEQPACKET pair, one JSON message a packet:

    request   {"id": 7, "argv": [...], "env": {...}, "cwd": "..."}   + stdin, stdout, stderr (SCM_RIGHTS)
    replies   {"id": 7, "pid": 4711}    forked
              {"id": 7, "exit": 0}      ended
              {"id": 7, "error": "..."} not forked: the request was not understood

A request has the effect of exec-ing `argv` there: same arguments, environment, folder and stdio.
A command that leaves a daemon behind (`start`) becomes the daemon and tells the zygote so, which saves
it a second fork: "exit" means that the command has ended, not that its process has.
The zygote ends when its caller does. It has one thread and loads nothing after its start.
"""

import _signal  # type: ignore[import-not-found]  # the C part: signal's functions convert to and from enums
import gc
import importlib
import os
import select
import socket
import sys
import time
from contextlib import suppress

from cutaway.faults import point
from cutaway.linux import processes
from cutaway.shim import programs, rehearsal, start
from cutaway.shim.daemon import Parts
from cutaway.shim.launch import replace_environment
from cutaway.shim.waiting import MAX_REQUEST, STREAMS, WaitingShim, get_ready, hear
from cutaway.trace import spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

# Seconds from one start to the next fork ahead, so that the two do not meet.
_PAUSE = 0.05
_TIMES = 12  # CPython 3.11 looks at a function anew after 8 calls
_PID = 4  # bytes; below PIPE_BUF, so a write of one is never torn
_RUNTIME = "cutaway-runc"
_NOT_LOADED = frozenset({__name__, "cutaway.shim.zygote", "cutaway.shim.info", "cutaway.trace.collect"})


class Request:
    """What to become."""

    __slots__ = ("argv", "cwd", "env", "id")

    def __init__(self, id: int, argv: list[str], env: dict[str, str], cwd: str) -> None:
        self.id = id
        self.argv = argv
        self.env = env
        self.cwd = cwd


def decode(packet: bytes) -> Request:
    """Raises ValueError, with what is wrong."""
    import json

    fields = json.loads(packet)
    try:
        request = Request(fields["id"], fields["argv"], fields["env"], fields["cwd"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"a request is an object with id, argv, env and cwd: {error!r}") from None
    if not (_are_text(request.argv, list) and request.argv):
        raise ValueError("argv: not a list of strings")
    if not (_are_text(request.env, dict) and _are_text(list(request.env.values()), list)):
        raise ValueError("env: not an object of strings")
    if not (isinstance(request.id, int) and isinstance(request.cwd, str)):
        raise ValueError("id: not a number, or cwd: not a string")
    return request


def _are_text(values: object, kind: type) -> bool:
    return type(values) is kind and all(isinstance(item, str) for item in values)  # type: ignore[attr-defined]


class Zygote:
    """Serves one caller. A shim waits for each `start` (`waiting`), if the last one was not just before."""

    def __init__(self, caller: socket.socket) -> None:
        self._caller = caller
        self._children: dict[int, int] = {}
        self._next: WaitingShim | None = None
        self._next_due: float | None = time.monotonic() + _PAUSE
        self._left, self._leave = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._pipe, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the caller hangs up."""
        poll = select.poll()
        poll.register(self._caller, select.POLLIN)
        poll.register(self._pipe, select.POLLIN)
        poll.register(self._left, select.POLLIN)
        while True:
            for fd, _ in poll.poll(self._patience()):
                if fd == self._pipe:
                    os.read(self._pipe, 4096)
                    self._reap()
                elif fd == self._left:
                    self._part(os.read(self._left, 4096))
                elif not self._receive():
                    self._dismiss()
                    return
            self._fork_ahead()

    def _patience(self) -> int | None:
        """Milliseconds until the next shim is to be forked."""
        if self._next_due is None:
            return None
        return max(0, int((self._next_due - time.monotonic()) * 1000) + 1)

    def _fork_ahead(self) -> None:
        if self._next_due is None or time.monotonic() < self._next_due:
            return
        self._next_due = None
        with suppress(OSError):  # no memory or no process left: the request will say so
            self._next = WaitingShim(lambda end: _become(lambda: _wait(end, self._leave)))

    def _dismiss(self) -> None:
        """Nothing is left behind, as far as that can be waited for."""
        if self._next is not None:
            self._next.dismiss()
            with suppress(ChildProcessError):
                os.waitpid(self._next.pid, 0)

    def _receive(self) -> bool:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._caller, MAX_REQUEST, STREAMS)
        except ConnectionResetError:
            return False  # it has hung up without reading the last replies
        if not packet:
            return False
        try:
            self._answer(packet, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)
        return True

    def _answer(self, packet: bytes, descriptors: list[int]) -> None:
        try:
            request = decode(packet)
            if len(descriptors) != STREAMS:
                raise ValueError(f"{len(descriptors)} descriptors instead of 3")
        except ValueError as error:
            self._reply({"id": _id_of(packet), "error": str(error)})
            return
        point("zygote.before-fork")
        try:
            pid = self._ask(request, packet, descriptors) or os.fork()
        except OSError as error:  # no memory or no process left: the caller may exec, and others ask again
            self._reply({"id": request.id, "error": f"fork: {error.strerror}"})
            return
        if pid == 0:
            _become(lambda: _serve(request, descriptors, self._leave))
        self._children[pid] = request.id
        point("zygote.forked")
        self._reply({"id": request.id, "pid": pid})

    def _ask(self, request: Request, packet: bytes, descriptors: list[int]) -> int:
        """Hand a `start` to the shim that waits; its pid, or 0 when none does."""
        if request.argv[-1] != "start":
            return 0
        shim, self._next = self._next, None
        if self._next_due is None:
            self._next_due = time.monotonic() + _PAUSE
        return shim.pid if shim is not None and shim.ask(packet, descriptors) else 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _part(self, pids: bytes) -> None:
        """From daemons: their commands have ended."""
        for at in range(0, len(pids), _PID):
            self._ended(int.from_bytes(pids[at : at + _PID], sys.byteorder), 0)

    def _ended(self, pid: int, code: int) -> None:
        if self._next is not None and pid == self._next.pid:
            self._next.dismiss()
            self._next = None
            return
        id = self._children.pop(pid, None)
        if id is not None:  # else a daemon, whose command has been reported
            self._reply({"id": id, "exit": code})

    def _reply(self, fields: "dict[str, Any]") -> None:
        import json

        with suppress(BrokenPipeError):  # it has hung up, which is noticed next
            self._caller.send(json.dumps(fields).encode())


def _id_of(packet: bytes) -> object:
    import json

    try:
        return json.loads(packet)["id"]
    except (ValueError, KeyError, TypeError):
        return None


def _become(work: "Callable[[], int]") -> "NoReturn":
    """In the child: what an exec of the shim would do."""
    status = 1
    try:
        gc.freeze()
        _signal.set_wakeup_fd(-1)
        for number in (_signal.SIGCHLD, _signal.SIGINT):
            _signal.signal(number, _signal.SIG_DFL)
        status = work()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - what the interpreter does for a program that was exec'd
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _serve(request: Request, descriptors: list[int], leave: int) -> int:
    _take(descriptors)
    processes.close_from(STREAMS, {leave})
    return _run(request, leave)


def _wait(end: socket.socket, leave: int) -> int:
    """Get ready, and be the shim of whoever asks."""
    processes.close_from(STREAMS, {leave, end.fileno()})
    start.parts = get_ready()
    packet, descriptors = hear(end)
    if not packet:
        return 0
    point("shim.waiting.asked")
    _take(descriptors)
    processes.close(descriptors)
    return _run(decode(packet), leave)


def _take(descriptors: list[int]) -> None:
    for target, fd in enumerate(descriptors):
        os.dup2(fd, target)


def _run(request: Request, leave: int) -> int:
    from cutaway.shim.main import main

    replace_environment(request.env)
    os.chdir(request.cwd)
    sys.argv = list(request.argv)
    start.leave = lambda: _leave(leave)
    return main(request.argv[1:])


def _leave(pipe: int) -> None:
    """In the child that has become a daemon."""
    os.write(pipe, os.getpid().to_bytes(_PID, sys.byteorder))
    os.close(pipe)


def preload() -> None:
    """Load everything that a shim or a runtime call may need, so that no child has to."""
    # Of cutaway.oci no more: images and archives are the daemons', with asyncio and OpenSSL below them.
    for name in ("json", "google.protobuf.message_factory", "cutaway.oci.runtime_spec"):
        importlib.import_module(name)
    for name in ("shim_v3_pb2", "runc_options_pb2", "cgroups_v1_pb2", "cgroups_v2_pb2"):
        importlib.import_module(f"cutaway.pb.{name}")
    for package in ("cutaway.shim", "cutaway.linux", "cutaway.trace"):
        _load_all(package)
    _preload_runtime()
    for _ in range(_TIMES):
        _rehearse()


def _rehearse() -> None:
    """What all that is forked from here will do."""
    program = programs.only()
    if program is not None and program.rehearse is not None:
        program.rehearse()
    parts = Parts()
    try:
        with suppress(OSError):  # who cannot do it in earnest is told so
            rehearsal.rehearse(parts)
            if program is not None:
                rehearsal.call(program.main)
    finally:
        parts.reaper.close()
        spans.configure("", None)


def _load_all(package: str) -> None:
    """A package with everything in it: the parts of ours import late, for the sake of a cold start.

    Not by pkgutil: that brings inspect, ast and dis, a megabyte that every fork would have to carry.
    """
    folder = importlib.import_module(package)
    for entry in sorted(os.scandir(folder.__path__[0]), key=lambda entry: entry.name):
        stem, dot, suffix = entry.name.partition(".")
        name = f"{package}.{stem}"
        if suffix == "py" and stem != "__init__" and name not in _NOT_LOADED:
            importlib.import_module(name)
        elif not dot and os.path.exists(f"{entry.path}/__init__.py"):
            _load_all(name)


def _preload_runtime() -> None:
    """Our own runtime, if it is there: the file beside the interpreter's programs."""
    try:
        from cutaway.runc import warm
        from cutaway.runc.main import expect, main

        _load_all("cutaway.runc")
        warm.load()
    except ImportError as error:
        sys.stderr.write(f"runtime calls will not be warm: {error}\n")
        return
    executable = os.path.join(os.path.dirname(sys.executable), _RUNTIME)
    programs.register(executable, main, expect, warm.rehearse)


def main(argv: list[str]) -> int:
    """The zygote's own entry: the number of its socket, then those of descriptors that have served."""
    caller = socket.socket(fileno=int(argv[0]))
    for spent in argv[1:]:
        os.close(int(spent))
    caller.set_inheritable(False)
    processes.set_name("cutaway-zygote")
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # from a terminal, it is meant for the caller
    preload()
    gc.collect()
    gc.freeze()
    Zygote(caller).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
