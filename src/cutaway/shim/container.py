"""A container: a bundle, its runtime, its init and the processes that exec has added.

The container tells its observer what has happened, in the order in which the world may know it:
created before started, started before exited, every exec's exit before the init's.
"""

import os
from contextlib import suppress

from cutaway.errors import AlreadyExists, CutawayError, NotFound, Unknown
from cutaway.faults import point
from cutaway.linux import smallfile
from cutaway.shim import log, mounts, options, states
from cutaway.shim.loop import wait_for
from cutaway.shim.process import Process
from cutaway.shim.runtime import Runtime, not_running, pid_file, process_file
from cutaway.shim.stdio import Stdio, Streams
from cutaway.shim.tracing import step
from cutaway.trace import spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Protocol

    from cutaway.linux.cgroups.base import Manager
    from cutaway.pb.runc_options_pb2 import CheckpointOptions
    from cutaway.shim.checkpoint import Saved
    from cutaway.shim.launch import Launcher
    from cutaway.shim.loop import Event, Loop
    from cutaway.shim.mounts import Mount
    from cutaway.shim.options import Options
    from cutaway.shim.reaper import Exit, Reaper

    class Observer(Protocol):
        """Who tells the world."""

        def created(self, container: "Container") -> None: ...
        def started(self, container: "Container", process: Process) -> None: ...
        def exited(self, container: "Container", process: Process) -> None: ...

    class Host(Protocol):
        """What a container needs of the program around it."""

        loop: Loop
        reaper: Reaper
        launcher: Launcher
        namespace: str
        observer: Observer


_DRAIN_SECONDS = 10.0  # for output that is still on its way when a process is deleted


class Bundle:
    """Where a container's description lies, and what its root filesystem is to be made of.

    `saved` is what its processes are to be made from, when they have run before.
    """

    __slots__ = ("path", "rootfs", "saved")

    def __init__(self, path: str, rootfs: "list[Mount]", saved: "Saved | None" = None) -> None:
        self.path = path
        self.rootfs = rootfs
        self.saved = saved


class Container:
    """One container and its verbs. Made by `create`."""

    def __init__(
        self, host: "Host", id: str, bundle: Bundle, stdio: Stdio, settings: "Options", binary: str
    ) -> None:
        self.id = id
        self.bundle = bundle
        self.execs: dict[str, Process] = {}
        self.init = Process(id, stdio, self._exited)
        if bundle.saved is not None:
            self.init.state = states.SAVED
        self.pausing = False
        self.trace = spans.current()
        self._host = host
        self._ending = False
        self._own_pids: bool | None = None
        self._cgroup: Manager | None = None
        self._binary = binary
        self._rootfs = f"{bundle.path}/rootfs" if bundle.rootfs else ""
        self._runtime = Runtime(host.launcher, binary, settings, host.namespace, bundle.path)
        self._streams = Streams(
            host.loop, host.launcher, host.namespace, id, settings.io_uid or 0, settings.io_gid or 0
        )

    async def create(self) -> None:
        """Mount the root filesystem and have the runtime make the container.

        When it fails nothing is left: no mount, no stream. Raises what the steps raise.
        """
        self._host.reaper.keep()
        try:
            self._mount()
            point("shim.create.mounted")
            try:
                await self._make_init()
                point("shim.create.made")
            except BaseException:
                self.init.io.close()
                self._unmount()
                raise
            self._host.observer.created(self)
            point("shim.create.told")
            self._host.loop.soon(self._look_for_pids)
            self._host.loop.soon(lambda: self._host.launcher.prepare_short(self._binary))
            if self.init.pid:
                self._host.reaper.expect(self.init.pid, self.init.reaped)
        finally:
            self._host.reaper.release()

    async def _make_init(self) -> None:
        """The init itself; of a saved container only its streams, as it runs at once when it is made."""
        self.init.io = self._streams.open(self.init.stdio)
        await self.init.io.prepare()
        if self.bundle.saved is None:
            self.init.pid = await self._runtime.create(self.id, pid_file(self.bundle.path), self.init.io)
            await self._begin_to_copy()

    async def _begin_to_copy(self) -> None:
        try:
            self.init.io.started()
        except BaseException:
            await self._runtime.force_delete(self.id)
            raise

    def _mount(self) -> None:
        if not self._rootfs:
            return
        os.makedirs(self._rootfs, mode=0o711, exist_ok=True)
        with step("mount rootfs", target=self._rootfs) as span:
            first = self.bundle.rootfs[0]
            span.set(type=first.kind, source=first.source, options=",".join(first.options))
            mounts.mount_all(self.bundle.rootfs, self._rootfs)

    def _unmount(self) -> None:
        if self._rootfs:
            problem = mounts.unmount_all(self._rootfs)
            if problem:
                log.warning(f"failed to cleanup rootfs mount {self._rootfs}: {problem}")

    def find(self, exec_id: str) -> Process:
        """The init, or an exec by its id. Raises `NotFound`."""
        if not exec_id:
            return self.init
        process = self.execs.get(exec_id)
        if process is None:
            raise NotFound(f"process does not exist {exec_id}")
        return process

    async def start(self, exec_id: str) -> Process:
        """Let a created process run. Raises `NotFound`, `FailedPrecondition`, `Unknown`."""
        process = self.find(exec_id)
        async with process.lock:
            process.state.check(states.START)
            self.trace = spans.current() or self.trace
            if process is self.init:
                await self._start_init()
            else:
                await self._start_exec(process)
        return process

    async def _start_init(self) -> None:
        self.init.hold()
        try:
            if self.bundle.saved is None:
                await self._runtime.start(self.id)
            else:
                await self._restore(self.bundle.saved)
            self.init.state = states.RUNNING
            self._host.observer.started(self, self.init)
        finally:
            self.init.release()

    async def _restore(self, saved: "Saved") -> None:
        self._host.reaper.keep()
        try:
            self.init.pid = await self._runtime.restore(
                self.id, saved.arguments(), pid_file(self.bundle.path), self.init.io
            )
            await self._begin_to_copy()
            self._host.reaper.expect(self.init.pid, self.init.reaped)
        finally:
            self._host.reaper.release()

    async def _start_exec(self, process: Process) -> None:
        if self._ending:
            raise not_running(self.id)
        self._host.reaper.keep()
        try:
            process.io = self._streams.open(process.stdio)
            await process.io.prepare()
            process.pid = await self._runtime.exec(self.id, *self._files_of(process.id), process.io)
            process.state = states.RUNNING
            process.io.started()
            self._host.observer.started(self, process)
            self._host.reaper.expect(process.pid, process.reaped)
        except BaseException:
            process.io.close()
            if process.pid == 0:
                process.state = states.STOPPED
                process.exited.set()
            raise
        finally:
            _remove(self._files_of(process.id)[0])
            self._host.reaper.release()

    def _files_of(self, exec_id: str) -> tuple[str, str]:
        """What describes a process to the runtime, and where that writes its pid."""
        return process_file(self.bundle.path, exec_id), pid_file(self.bundle.path, exec_id)

    def exec(self, exec_id: str, stdio: Stdio, spec: bytes) -> None:
        """Add a process from its OCI JSON.

        Raises `AlreadyExists`, `InvalidArgument`, `FailedPrecondition`, OSError.
        """
        if exec_id in self.execs:
            raise AlreadyExists(f"id {exec_id}")
        self.init.state.check(states.EXEC)
        process, pid = self._files_of(exec_id)
        try:
            smallfile.write(process, _process_json(spec, stdio.terminal), 0o600)
        except OSError:
            _remove(process)
            raise
        point("shim.exec.process-written")
        expected = self._runtime.expected_exec(self.id, process, pid)
        self._host.loop.soon(lambda: self._host.launcher.prepare(self._binary, expected))
        self.execs[exec_id] = Process(exec_id, stdio, self._exited)

    async def delete(self, exec_id: str) -> Process:
        """Forget a process that has ended; the init's end is the container's.

        Waits for the last output, but not for ever: a descendant may hold the streams open.
        """
        process = self.find(exec_id)
        async with process.lock:
            process.state.check(states.DELETE)
            await self._drain(process)
            if process is self.init:
                await self._runtime.delete(self.id)
                point("shim.delete.runtime-done")
                options.mark_deleted(self.bundle.path)
                point("shim.delete.marked")
                self._unmount()
                point("shim.delete.unmounted")
            else:
                self._forget_exec(process)
            process.io.close()
            process.state = states.DELETED
        return process

    async def _drain(self, process: Process) -> None:
        if process.exit is None:
            return  # it never ran
        if not await wait_for(self._host.loop, process.io.drained, _DRAIN_SECONDS):
            log.warning(f"failed to drain the output of {process.id}")

    def _forget_exec(self, process: Process) -> None:
        self.execs.pop(process.id, None)
        for path in self._files_of(process.id):
            _remove(path)

    async def kill(self, exec_id: str, number: int, everyone: bool) -> None:
        """Signal a process. Raises `NotFound` for one that is gone."""
        process = self.find(exec_id)
        if process is not self.init:
            process.signal(number)
            return
        async with process.lock:
            process.state.check(states.KILL)
            await self._runtime.kill(self.id, number, everyone)

    async def pause(self) -> None:
        async with self.init.lock:
            self.init.state.check(states.PAUSE)
            self.pausing = True
            try:
                await self._runtime.pause(self.id)
                self.init.state = states.PAUSED
            finally:
                self.pausing = False

    async def resume(self) -> None:
        async with self.init.lock:
            self.init.state.check(states.RESUME)
            await self._runtime.resume(self.id)
            self.init.state = states.RUNNING

    async def update(self, resources: bytes) -> None:
        """Change limits; `resources` is OCI JSON."""
        async with self.init.lock:
            self.init.state.check(states.UPDATE)
            await self._runtime.update(self.id, resources)

    async def checkpoint(self, path: str, how: "CheckpointOptions") -> None:
        """Save the processes to a folder. Raises `FailedPrecondition`, `Unknown`."""
        from cutaway.shim import checkpoint

        async with self.init.lock:
            self.init.state.check(states.CHECKPOINT)
            await checkpoint.save(self._runtime, self.id, self.bundle.path, path, how)

    def cgroup(self) -> "Manager":
        """The container's cgroup, found by its init and remembered: it stays until the deletion.

        Raises `NotFound` when nobody has asked before the init has ended.
        """
        if self._cgroup is None:
            from cutaway.linux import cgroups

            try:
                self._cgroup = cgroups.from_pid(self.init.pid)
            except (FileNotFoundError, ProcessLookupError):
                raise NotFound("cgroup does not exist") from None
        return self._cgroup

    async def pids(self) -> list[int]:
        return await self._runtime.pids(self.id)

    def state_of(self, process: Process) -> str:
        """The state's name; a paused container's processes are all paused."""
        if self.pausing:
            return "pausing"
        if self.init.state is states.PAUSED:
            return states.PAUSED.name
        return "stopped" if process.state is states.DELETED else process.state.name

    def _exited(self, process: Process, exit: "Exit") -> None:
        if process is self.init:
            self._ending = True
            self._host.loop.spawn(self._end(exit))
        else:
            self._tell_exit(process, exit)

    async def _end(self, exit: "Exit") -> None:
        """The init has ended. In a pid namespace of its own, that has ended everything else, too."""
        if self.init.state is states.PAUSED:
            await self._try(self._runtime.resume(self.id))
        self._look_for_pids()
        if not self._own_pids:
            await self._try(self._runtime.kill(self.id, 9, everyone=True))
        for process in list(self.execs.values()):
            if process.is_running:
                await process.exited
        self._tell_exit(self.init, exit)

    async def _try(self, call: "Coroutine[Event, None, None]") -> None:
        try:
            await call
        except NotFound:
            return
        except CutawayError as error:
            log.warning(f"after the end of {self.id}: {error.message}")

    def _look_for_pids(self) -> None:
        """Whether others may live on without the init; read while nobody waits, not at its end."""
        if self._own_pids is None:
            own = leads_pids(self.init.pid)
            self._own_pids = has_own_pids(f"{self.bundle.path}/config.json") if own is None else own

    def _tell_exit(self, process: Process, exit: "Exit") -> None:
        process.finish(exit)
        point("shim.exit.noted")
        if self.trace is not None:
            at = exit.at_ns
            spans.record(
                "exit", at, at, parent=self.trace, pid=exit.pid, exit_code=exit.status, process=process.id
            )
        self._host.observer.exited(self, process)
        point("shim.exit.told")
        process.exited.set()


def leads_pids(pid: int) -> bool | None:
    """Whether a process is the first of a pid namespace, with which all others end; None when it is gone.

    NSpid of proc_pid_status(5), Linux 4.1.
    """
    try:
        status = smallfile.read(f"/proc/{pid}/status") if pid else b""
    except OSError:
        return None
    _, found, rest = status.partition(b"\nNSpid:")
    return rest.partition(b"\n")[0].split()[-1:] == [b"1"] if found else None


def has_own_pids(config: str) -> bool:
    """Whether a bundle's config.json asks for a new pid namespace; an unreadable one counts as not."""
    import json

    try:
        with open(config, "rb") as file:
            namespaces = json.load(file)["linux"]["namespaces"]
        return any(entry["type"] == "pid" and not entry.get("path") for entry in namespaces)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _process_json(spec: bytes, terminal: bool) -> bytes:
    """The process to exec, its `terminal` as the request has it. Raises `InvalidArgument`."""
    import json

    from cutaway.errors import InvalidArgument

    try:
        process = json.loads(spec)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"exec: the process is not valid JSON: {error}") from None
    if not isinstance(process, dict):
        raise InvalidArgument("exec: the process is not a JSON object")
    process["terminal"] = terminal
    return json.dumps(process).encode()


def new_container(
    host: "Host", id: str, bundle: Bundle, stdio: Stdio, settings: "Options", binary: str
) -> Container:
    """Describe a container and leave in its bundle what `delete` needs. Raises `Unknown`."""
    binary = settings.binary_name or binary
    try:
        options.write(bundle.path, settings, binary)
    except OSError as error:
        raise Unknown(f"bundle {bundle.path}: {error.strerror}") from None
    return Container(host, id, bundle, stdio, settings, binary)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
