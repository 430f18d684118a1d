"""A conversation with `criu swrk`: criu as our child, with its requests on a socket.

request ──▶           criu reads our descriptors by their numbers (/proc/PID/fd, PID from SO_PEERCRED)
        ◀── NOTIFY    "setup-namespaces", "post-restore", "orphan-pts-master", ...: answered one by one
        ◀── response
"""

import _socket
import os

from cutaway.errors import Aborted, FailedPrecondition, NotFound
from cutaway.linux import libc
from cutaway.runc.criu import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutaway.runc.criu.messages import Response

    # What a notification asks for: its response, and the descriptor that came with it (-1: none).
    Notify = Callable[[Response, int], None]

_LARGEST = 1 << 16
_SWRK_FD = 3
_HIGH = 32  # descriptors are copied there first, out of the way of those that criu gets
_VERSION_MINIMUM = 30000


class Criu:
    """The program, found once. Raises `NotFound` in runc's words when it is not installed."""

    def __init__(self, program: str) -> None:
        self.program = _find(program or "criu")
        self._version = 0

    def version(self) -> int:
        """31701 for 3.17.1. Raises `FailedPrecondition` for one that is too old to be asked."""
        if not self._version:
            found = self.converse(lambda pid: messages.request(messages.VERSION)).version
            if found < _VERSION_MINIMUM:
                raise FailedPrecondition(f"CRIU version {found} must be {_VERSION_MINIMUM} or higher")
            self._version = found
        return self._version

    def need(self, feature: str, name: str) -> None:
        """Raise `FailedPrecondition` when criu, or this kernel, lacks a feature."""
        answer = self.converse(lambda pid: messages.request(messages.FEATURE_CHECK, features=feature))
        if feature not in answer.features:
            raise FailedPrecondition(f"criu is missing features: [{name}]")

    def converse(
        self,
        ask: "Callable[[int], bytes]",
        notify: "Notify | None" = None,
        descriptors: "Sequence[int]" = (),
        stdio: bool = False,
        log_file: str = "",
    ) -> "Response":
        """Start criu, send what `ask` makes of its pid, answer what it asks, and wait for its end.

        It gets `descriptors` from 4 on, and with `stdio` ours, which become those of what it restores.
        Raises `FailedPrecondition` when it fails, `Aborted` when it ends without a word.
        """
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            pid = self._start(theirs.fileno(), descriptors, stdio)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        status = -1
        try:
            _send(ours, ask(pid))
            answer = _answer(ours, notify, log_file)
            ours.shutdown(_socket.SHUT_WR)
            status = os.waitpid(pid, 0)[1]
        finally:
            ours.close()
            if status < 0:
                os.waitpid(pid, 0)
        # A pre-dump leaves criu waiting for the dump that never comes: it fails then, having succeeded.
        if status and answer.kind != messages.PRE_DUMP:
            code = os.waitstatus_to_exitcode(status)
            how = f"exit status {code}" if code >= 0 else f"signal: {-code}"
            raise FailedPrecondition(f"criu failed: {how}" + _log(log_file))
        return answer

    def _start(self, socket: int, descriptors: "Sequence[int]", stdio: bool) -> int:
        high = [_copy(fd) for fd in (socket, *descriptors)]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            actions: list[tuple[int, int, int]] = []
            if not stdio:
                actions += [(os.POSIX_SPAWN_DUP2, null, fd) for fd in range(3)]
            actions += [(os.POSIX_SPAWN_DUP2, fd, _SWRK_FD + index) for index, fd in enumerate(high)]
            arguments = [self.program, "swrk", str(_SWRK_FD)]
            return os.posix_spawn(self.program, arguments, os.environ, file_actions=actions)
        except OSError as error:
            raise FailedPrecondition(f"fork/exec {self.program}: {libc.words(error.errno or 0)}") from None
        finally:
            for fd in (*high, null):
                os.close(fd)


def _copy(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)


def _find(name: str) -> str:
    if "/" in name:
        return name
    for folder in os.environ.get("PATH", "").split(":"):
        path = os.path.join(folder, name)
        if folder and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise NotFound(f'CRIU version check failed: exec: "{name}": executable file not found in $PATH')


def _answer(ours: "_socket.socket", notify: "Notify | None", log_file: str) -> "Response":
    """The response to the request, after all that criu wanted done meanwhile."""
    while True:
        try:
            text, ancillary, _, _ = ours.recvmsg(_LARGEST, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            text = b""
        if not text:
            raise Aborted("criu ended without an answer: unexpected EOF" + _log(log_file))
        answer = messages.Response(text)
        if not answer.success:
            kind = messages.NAMES.get(answer.kind, str(answer.kind))
            raise FailedPrecondition(f"criu failed: type {kind} errno {answer.errno}" + _log(log_file))
        if answer.kind != messages.NOTIFY:
            return answer
        descriptor = _descriptor(ancillary)
        try:
            if notify is not None:
                notify(answer, descriptor)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        _send(ours, messages.notified())


def _send(ours: "_socket.socket", text: bytes) -> None:
    try:
        ours.send(text, _socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return  # criu has ended: the next read says so


def _descriptor(ancillary: "list[tuple[int, int, bytes]]") -> int:
    import sys

    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int.from_bytes(data[:4], sys.byteorder)
    return -1


def _log(path: str) -> str:
    return f"\nlog file: {path}" if path else ""
