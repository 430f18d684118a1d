"""The OCI runtime's command line, word for word as containerd's runc shim calls it.

    RUNTIME --root ROOT/NS --log BUNDLE/log.json --log-format json [--criu P] [--systemd-cgroup] VERB ...

A failure is told with the last error line that the runtime has logged during that call.
"""

import os

from cutaway.errors import CutawayError, FailedPrecondition, NotFound, Unknown
from cutaway.faults import point
from cutaway.linux import smallfile
from cutaway.shim.launch import Launcher, Result
from cutaway.shim.options import DEFAULT_ROOT, Options
from cutaway.shim.tracing import step
from cutaway.trace import spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.stdio import ProcessIo


_MAX_SAID = 4096  # of a failed runtime's words


def pid_file(bundle: str, process: str = "init") -> str:
    """Where a runtime is told to write the pid of a process: containerd's shim looks there too."""
    return f"{bundle}/{process}.pid"


def process_file(bundle: str, process: str) -> str:
    """Where a process that is to be started later is described, for the runtime to read."""
    return f"{bundle}/{process}.process.json"


class Runtime:
    """One runtime for one bundle."""

    def __init__(
        self, launcher: Launcher, binary: str, options: Options, namespace: str, bundle: str
    ) -> None:
        self._launcher = launcher
        self._binary = binary
        self._bundle = bundle
        self._log = f"{bundle}/log.json"
        self._pivot_flags = ["--no-pivot"] if options.no_pivot_root else []
        self._create_flags = [
            *self._pivot_flags,
            *(["--no-new-keyring"] if options.no_new_keyring else []),
        ]
        root = options.root or DEFAULT_ROOT
        self._global = [
            "--root", f"{root}/{namespace}",
            "--log", self._log,
            "--log-format", "json",
            *(["--criu", options.criu_path] if options.criu_path else []),
            *(["--systemd-cgroup"] if options.systemd_cgroup else []),
        ]  # fmt: skip

    async def create(self, container: str, pid_file: str, io: "ProcessIo") -> int:
        """Make the container; returns its init's pid. Raises `Unknown` with the runtime's reason."""
        await self._make(self._create(container, pid_file, _console(io)), io, "OCI runtime create failed")
        return _read_pid(pid_file)

    def expected(self, container: str, pid_file: str) -> list[str]:
        """The command line by which `create` will call the runtime, if there is no terminal."""
        return [self._binary, *self._global, *self._create(container, pid_file, [])]

    def _create(self, container: str, pid_file: str, console: list[str]) -> list[str]:
        return [
            "create", "--bundle", self._bundle, "--pid-file", pid_file,
            *console, *self._create_flags, container,
        ]  # fmt: skip

    async def exec(self, container: str, process: str, pid_file: str, io: "ProcessIo") -> int:
        """Start another process from a file of its OCI JSON; returns its pid. Raises as `create`."""
        arguments = self._exec(container, process, pid_file, _console(io))
        await self._make(arguments, io, "OCI runtime exec failed")
        return _read_pid(pid_file)

    def expected_exec(self, container: str, process: str, pid_file: str) -> list[str]:
        """The command line by which `exec` will call the runtime, if there is no terminal."""
        return [self._binary, *self._global, *self._exec(container, process, pid_file, [])]

    def _exec(self, container: str, process: str, pid_file: str, console: list[str]) -> list[str]:
        return ["exec", "--process", process, *console, "--detach", "--pid-file", pid_file, container]

    async def restore(self, container: str, saved: list[str], pid_file: str, io: "ProcessIo") -> int:
        """Make the container again from what was saved, and let it go on; returns its init's pid.

        Raises as `create`.
        """
        arguments = [
            "restore", *saved, "--detach", "--pid-file", pid_file, *_console(io), *self._pivot_flags,
            "-no-subreaper", "--bundle", self._bundle, container,
        ]  # fmt: skip
        await self._make(arguments, io, "OCI runtime restore failed")
        return _read_pid(pid_file)

    async def checkpoint(self, container: str, how: list[str]) -> None:
        """Save the container. Raises `Unknown` with what the runtime said."""
        result = await self._call(["checkpoint", *how, container])
        if result.status:
            raise Unknown(self._said(result))

    async def start(self, container: str) -> None:
        await self._do(["start", container], "OCI runtime start failed", short=True)

    async def pause(self, container: str) -> None:
        await self._do(["pause", container], "OCI runtime pause failed")

    async def resume(self, container: str) -> None:
        await self._do(["resume", container], "OCI runtime resume failed")

    async def update(self, container: str, resources: bytes) -> None:
        """Change limits; `resources` is the OCI JSON."""
        await self._do(["update", "--resources", "-", container], "OCI runtime update failed", resources)

    async def delete(self, container: str) -> None:
        """Forget the container; one that the runtime does not know any more is no error."""
        try:
            await self._do(["delete", container], "failed to delete task", short=True)
        except Unknown as error:
            if "does not exist" not in error.message:
                raise

    async def kill(self, container: str, number: int, everyone: bool = False) -> None:
        """Send a signal. Raises `NotFound` for a process or container that is gone."""
        arguments = ["kill", *(["--all"] if everyone else []), container, str(number)]
        result = await self._call(arguments, short=not everyone)
        if result.status:
            raise kill_error(self._said(result))

    async def pids(self, container: str) -> list[int]:
        """The processes of a container. Raises `Unknown`."""
        import json

        result = await self._call(["ps", "--format", "json", container], merge=False)
        if result.status:
            raise Unknown(self._said(result))
        try:
            found = json.loads(result.output)
        except ValueError:
            found = None
        if not (isinstance(found, list) and all(type(pid) is int for pid in found)):
            raise Unknown(f"{self._binary} ps: not a list of pids: {result.output[:200]}")
        return found

    async def force_delete(self, container: str) -> str:
        """Kill and forget whatever is there; returns why it could not, in words."""
        try:
            result = await self._call(["delete", "--force", container])
        except CutawayError as error:
            return error.message
        return self._said(result) if result.status else ""

    async def _make(self, arguments: list[str], io: "ProcessIo", failure: str) -> None:
        """A call whose descriptors become those of the process it makes."""
        if io.descriptors is None:
            await self._do(arguments, failure)
            return
        argv = [self._binary, *self._global, *arguments]
        offset = self._log_size()
        with step(_span_name(arguments), kind=spans.CLIENT, argv=" ".join(argv)) as span:
            try:
                point("shim.runtime.before-make")
                child = self._launcher.start(argv, io.descriptors)
            except NotFound as error:
                raise self._failure(failure, error.message, offset) from None
            await child.ended
            point("shim.runtime.made")
            span.set(exit_code=child.status)
            if child.status:
                said = self._said(Result(child.status, ""))
                raise self._failure(failure, said, offset)

    async def _do(
        self, arguments: list[str], failure: str, stdin: bytes = b"", *, short: bool = False
    ) -> None:
        offset = self._log_size()
        try:
            result = await self._call(arguments, stdin, short=short)
        except NotFound as error:
            raise self._failure(failure, error.message, offset) from None
        if result.status:
            raise self._failure(failure, self._said(result), offset)

    async def _call(
        self, arguments: list[str], stdin: bytes = b"", merge: bool = True, *, short: bool = False
    ) -> Result:
        argv = [self._binary, *self._global, *arguments]
        with step(_span_name(arguments), kind=spans.CLIENT, argv=" ".join(argv)) as span:
            point("shim.runtime.before-call")
            result = await self._launcher.run(argv, stdin, merge, short=short)
            point("shim.runtime.called")
            span.set(exit_code=result.status)
        return result

    def _said(self, result: Result) -> str:
        text = f"{self._binary} did not terminate successfully: exit status {result.status}"
        return f"{text}: {result.output[:_MAX_SAID]}"

    def _failure(self, what: str, otherwise: str, offset: int) -> Unknown:
        try:
            reason = last_error(self._log, offset)
        except OSError as error:
            problem = f"open {self._log}: {(error.strerror or '').lower()}"
            return Unknown(f"{what}: unable to retrieve OCI runtime error ({problem}): {otherwise}")
        return Unknown(f"{what}: {reason or otherwise}")

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except OSError:
            return 0


def _span_name(arguments: list[str]) -> str:
    return f"runtime {arguments[0]}"


def _console(io: "ProcessIo") -> list[str]:
    return ["--console-socket", io.console_socket] if io.console_socket else []


def _read_pid(path: str) -> int:
    try:
        return int(smallfile.read(path))
    except (OSError, ValueError) as error:
        raise Unknown(f"failed to retrieve OCI runtime container pid: {error}") from None


def last_error(path: str, offset: int = 0) -> str:
    """The message of the last line of level error in a runtime's JSON log, after `offset` bytes.

    Raises OSError. Lines that are not JSON objects are another program's, and passed over.
    """
    import json

    message = ""
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") == "error":
                message = str(entry.get("msg", "")).strip()
    return message


def kill_error(text: str) -> CutawayError:
    """What a failed kill means, as containerd's shim tells it by the runtime's words."""
    lower = text.lower()
    if "container not running" in lower or "no such process" in lower or "already finished" in lower:
        return NotFound("process already finished")
    if "does not exist" in lower:
        return NotFound("no such container")
    return Unknown(f"unknown error after kill: {text}")


def not_running(container: str) -> FailedPrecondition:
    return FailedPrecondition(f"container {container} init process is not running")
