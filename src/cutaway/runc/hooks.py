"""Hooks: programs run at points of a container's life (config.md, "POSIX-platform Hooks").

Each gets the container's state as JSON on stdin. One that fails, cannot be started or runs past its
timeout fails the operation, in runc's words; what it wrote is part of the message.
"""

import _signal  # type: ignore[import-not-found]  # the C part: signal itself imports enum
import os
import select
import stat
import time

from cutaway.errors import DeadlineExceeded, FailedPrecondition
from cutaway.linux import libc, processes
from cutaway.oci import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Hook, State
    from cutaway.runc.plan.step import Executor

    Stdio = tuple[int, int, int]

_OUTPUT_LIMIT = 1 << 16  # of what a hook wrote, kept for the message
_LONGEST_POLL = (1 << 31) - 1  # milliseconds, 24 days; poll(2) takes no more
_SIGKILL = 9
_ENDING = (1, 2, 15)  # HUP, INT, TERM: init handles them
_EACCES = 13


def run(
    name: str,
    hooks: "list[Hook]",
    state: "State",
    execute: "Executor | None" = None,
    environment: "dict[str, str] | None" = None,
) -> None:
    """Run hooks in order. Raises `FailedPrecondition` or `DeadlineExceeded` for the first that fails.

    `execute` is how a program of the container's is executed: not with the host's interpreter behind
    /proc/self/exe. Without an `env` of its own, a hook gets `environment`, or the runtime's.
    """
    if not hooks:
        return
    text = document.dumps(state).encode()
    for index, hook in enumerate(hooks):
        try:
            _run_one(hook, text, execute, environment)
        except (FailedPrecondition, DeadlineExceeded) as error:
            raise type(error)(f"error running hook #{index}: {error}") from None


def run_all(name: str, hooks: "list[Hook]", state: "State") -> list[str]:
    """Run every hook, those after one that fails too (poststop); what went wrong, in words."""
    failures = []
    for index, hook in enumerate(hooks):
        try:
            _run_one(hook, document.dumps(state).encode(), None)
        except (FailedPrecondition, DeadlineExceeded) as error:
            failures.append(f"error running hook #{index}: {error}")
    return failures


def _run_one(
    hook: "Hook", text: bytes, execute: "Executor | None", environment: "dict[str, str] | None" = None
) -> None:
    if hook.env is not None:
        environment = dict(entry.partition("=")[::2] for entry in hook.env)
    elif environment is None:
        environment = dict(os.environ)
    stdin, stdin_ours = os.pipe()
    stdout_ours, stdout = os.pipe()
    stderr_ours, stderr = os.pipe()
    try:
        stdio = stdin, stdout, stderr
        if execute is None:
            pid = _spawn(hook, environment, stdio)
        else:
            pid = _fork(hook, environment, stdio, execute)
    except OSError as error:
        for fd in (stdin_ours, stdout_ours, stderr_ours):
            os.close(fd)
        raise FailedPrecondition(f"fork/exec {hook.path}: {libc.words(error.errno or 0)}") from None
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
    pidfd = processes.pidfd_open(pid)
    try:
        output = _converse(pidfd, stdin_ours, text, (stdout_ours, stderr_ours), hook.timeout)
    finally:
        os.close(pidfd)
        status = os.waitpid(pid, 0)[1]
    _judge(status, *output)


def _spawn(hook: "Hook", environment: dict[str, str], stdio: "Stdio") -> int:
    actions = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(stdio)]
    arguments = hook.args or [hook.path]
    return os.posix_spawn(
        hook.path, arguments, environment, file_actions=actions, setsigdef=_ignored_by_python()
    )


def _fork(hook: "Hook", environment: dict[str, str], stdio: "Stdio", execute: "Executor") -> int:
    """As `_spawn`; what the kernel says of a program that is there is said as if by the hook, on stderr."""
    if stat.S_ISDIR(os.stat(hook.path).st_mode) or not os.access(hook.path, os.X_OK, effective_ids=True):
        raise PermissionError(_EACCES, os.strerror(_EACCES), hook.path)
    pid = os.fork()
    if pid == 0:
        try:
            for to, fd in enumerate(stdio):
                os.dup2(fd, to)
            for number in (*_ENDING, *_ignored_by_python()):
                _signal.signal(number, _signal.SIG_DFL)
            execute(hook.path, hook.args or [hook.path], environment)
        except OSError as error:
            os.write(2, f"exec {hook.path}: {libc.words(error.errno or 0)}\n".encode(errors="replace"))
        finally:
            os._exit(1)
    return pid


def _ignored_by_python() -> list[int]:
    """SIGPIPE and SIGXFSZ: the interpreter ignores them, and what it starts would inherit that."""
    return [13, 25]


def _judge(status: int, stdout: bytes, stderr: bytes) -> None:
    if status == 0:
        return
    code = os.waitstatus_to_exitcode(status)
    how = f"exit status {code}" if code >= 0 else f"signal: {_signal_name(-code)}"
    out, err = (data.decode(errors="replace") for data in (stdout, stderr))
    raise FailedPrecondition(f"error running hook: {how}, stdout: {out}, stderr: {err}")


def _signal_name(number: int) -> str:
    """A signal in words, as Go has them: `bad system call`."""
    return (_signal.strsignal(number) or f"signal {number}").lower()


def _converse(
    pidfd: int, stdin: int, text: bytes, outputs: tuple[int, int], timeout: int | None
) -> tuple[bytes, bytes]:
    """Feed stdin and gather output until the process ends; its descriptors are closed here.

    It ends when the process does: a child of it that holds the pipes open keeps nobody waiting.
    """
    deadline = time.monotonic() + timeout if timeout else None
    gathered = {outputs[0]: b"", outputs[1]: b""}
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    for fd in outputs:
        os.set_blocking(fd, False)
        poller.register(fd, select.POLLIN)
    os.set_blocking(stdin, False)
    poller.register(stdin, select.POLLOUT)
    try:
        while True:
            left = None if deadline is None else (deadline - time.monotonic()) * 1000
            events = poller.poll(None if left is None else min(max(0.0, left), _LONGEST_POLL))
            if not events:
                processes.pidfd_send_signal(pidfd, _SIGKILL)
                raise DeadlineExceeded(f"hook ran past specified timeout of {timeout}.0s")
            ready = {fd for fd, _ in events}
            if stdin in ready:
                text = _feed(stdin, text)
                if not text:
                    poller.unregister(stdin)
                    os.close(stdin)
                    stdin = -1
            for fd in outputs:
                if fd in ready and not _drain(fd, gathered):
                    poller.unregister(fd)
            if pidfd in ready:
                for fd in outputs:
                    _drain(fd, gathered)
                return gathered[outputs[0]], gathered[outputs[1]]
    finally:
        for fd in (stdin, *outputs):
            if fd >= 0:
                os.close(fd)


def _feed(fd: int, text: bytes) -> bytes:
    """Write what fits; what is left. A hook that does not read its state is within its rights."""
    try:
        return text[os.write(fd, text) :]
    except BlockingIOError:
        return text
    except BrokenPipeError:
        return b""


def _drain(fd: int, gathered: dict[int, bytes]) -> bool:
    """Read what is there; False at its end."""
    while True:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        gathered[fd] = (gathered[fd] + data)[-_OUTPUT_LIMIT:]
