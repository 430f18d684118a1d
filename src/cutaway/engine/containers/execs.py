"""Exec: a further process in a running container."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cutaway.engine.containers.control import Controller
from cutaway.engine.containers.exec_request import ExecRequest
from cutaway.engine.containers.failures import classify
from cutaway.engine.containers.model import Container, Status
from cutaway.engine.containers.parts import Parts
from cutaway.engine.containers.specs import exec_process
from cutaway.engine.runtime import Stdio, TaskExit
from cutaway.engine.stdio import fifo
from cutaway.engine.stdio.framing import STDERR, STDOUT
from cutaway.engine.stdio.hub import Hub, streams_of
from cutaway.engine.timestamps import now_ns
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound
from cutaway.trace import spans

log = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = 2.0
# How long an exec that has ended can still be inspected.
_REMEMBERED_NS: Final = 300 * 1_000_000_000
_ABANDONED: Final = 137


@dataclass(eq=False)
class Exec:
    """One further process."""

    id: str
    container: Container
    request: ExecRequest
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    ended_ns: int = 0
    hub: Hub = field(default_factory=Hub)
    stdin: fifo.Writer | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def abandon(self) -> None:
        """The container is gone, and this with it, should its own end not have been told."""
        if self.running:
            self.end(_ABANDONED)
            self.hub.finish()

    def end(self, exit_code: int) -> None:
        """It runs no more; its clients' connections are for the caller to end."""
        self.running = False
        self.exit_code = exit_code
        self.ended_ns = now_ns()
        self.hub.close()
        if self.stdin:
            self.stdin.close()


class ExecService:
    """Creates and runs execs; they live in memory and end with the engine's knowledge of them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._execs: dict[str, Exec] = {}

    def create(self, container: Container, request: ExecRequest) -> Exec:
        """An exec that is not started yet. Raises `InvalidArgument`, `FailedPrecondition`."""
        if not request.command:
            raise InvalidArgument("No exec command specified")
        self._require_usable(container)
        self._forget_old()
        made = Exec(secrets.token_hex(32), container, request)
        made.stdin = fifo.Writer() if request.attach_stdin else None
        self._execs[made.id] = made
        container.execs[made.id] = made
        self._parts.events.container(container, f"exec_create: {' '.join(request.command)}", execID=made.id)
        return made

    @staticmethod
    def _require_usable(container: Container) -> None:
        Controller.require_running(container)
        if container.state.status is Status.PAUSED:
            raise FailedPrecondition(
                f"Container {container.name} is paused, unpause the container before exec"
            )

    def _forget_old(self) -> None:
        oldest = now_ns() - _REMEMBERED_NS
        for done in [e for e in self._execs.values() if e.ended_ns and e.ended_ns < oldest]:
            self._forget(done)

    def _forget(self, done: Exec) -> None:
        self._execs.pop(done.id, None)
        done.container.execs.pop(done.id, None)

    def forget_container(self, container: Container) -> None:
        """A container was removed: so are its execs."""
        for done in list(container.execs.values()):
            self._forget(done)

    def get(self, exec_id: str) -> Exec:
        """Raises `NotFound` in Docker's words."""
        if found := self._execs.get(exec_id):
            return found
        raise NotFound(f"No such exec instance: {exec_id}")

    def check_startable(self, exec_: Exec) -> None:
        """Raise `FailedPrecondition` if it was started before or its container does not run."""
        if exec_.started:
            raise FailedPrecondition(
                f"Error: Exec command {exec_.id} is already running"
                if exec_.running
                else f"Error: Exec command {exec_.id} has already run"
            )
        self._require_usable(exec_.container)

    async def start(self, exec_: Exec) -> None:
        """Run it. Raises why it failed; its exit code is then 126, 127 or 128."""
        async with exec_.lock:
            self.check_startable(exec_)
            exec_.started = True
            token = spans.attach(spans.current() or exec_.container.trace)
            try:
                with spans.span("exec start", container=exec_.container.id, exec=exec_.id):
                    async with AsyncExitStack() as undo:
                        await self._launch(exec_, undo)
                        undo.pop_all()
            except CutawayError as error:
                answer, code = classify(error)
                exec_.end(code)
                raise answer from error
            finally:
                spans.detach(token)
        command = " ".join(exec_.request.command)
        self._parts.events.container(exec_.container, f"exec_start: {command}", execID=exec_.id)

    async def _launch(self, exec_: Exec, undo: AsyncExitStack) -> None:
        parts, container = self._parts, exec_.container
        process = await exec_process(parts, container, exec_.request)
        stdio = self._open_stdio(exec_, undo)
        await parts.runtime.add_process(container.id, exec_.id, process, stdio)
        undo.push_async_callback(parts.runtime.delete_process, container.id, exec_.id)
        exec_.running = True
        exec_.pid = await parts.runtime.start(container.id, exec_.id)

    def _open_stdio(self, exec_: Exec, undo: AsyncExitStack) -> Stdio:
        folder = self._parts.bundle(exec_.container)
        tty = exec_.request.tty
        outputs = streams_of(folder, exec_.id, tty=tty)
        for path in outputs.values():
            fifo.make(path)
        exec_.hub.open(outputs)
        stdin = folder / f"{exec_.id}-stdin"
        if exec_.stdin is not None:
            fifo.make(stdin)
            exec_.stdin.open(stdin)
        undo.callback(_remove_fifos, folder, exec_.id)
        return Stdio(
            stdin=str(stdin) if exec_.stdin is not None else "",
            stdout=str(outputs[STDOUT]),
            stderr="" if tty else str(outputs[STDERR]),
            terminal=tty,
        )

    async def handle_exit(self, told: TaskExit) -> None:
        """An exec's process has ended: last output, then its clients, then containerd forgets it."""
        exec_ = self._execs.get(told.exec_id)
        if exec_ is None:  # begun by an engine before us
            await self._delete(told)
            return
        async with exec_.lock:  # the event may overtake the answer to its start
            if not exec_.running:
                return
            await exec_.hub.drain(_DRAIN_SECONDS)
            exec_.end(told.exit_code)
            exec_.hub.finish()
        self._parts.events.container(
            exec_.container, "exec_die", execID=exec_.id, exitCode=str(told.exit_code)
        )
        await self._delete(told)

    async def _delete(self, told: TaskExit) -> None:
        """Have containerd forget an exec that has ended, and remove its FIFOs."""
        try:
            await self._parts.runtime.delete_process(told.container_id, told.exec_id)
        except CutawayError as error:
            log.warning("exec %s could not be deleted: %s", told.exec_id[:12], error)
        _remove_fifos(self._parts.settings.fifo_dir / told.container_id, told.exec_id)

    async def resize(self, exec_: Exec, width: int, height: int) -> None:
        """Tell the process's terminal its size. Raises `FailedPrecondition` if it does not run."""
        async with exec_.lock:  # a client sends its size while its start is under way
            if not exec_.running:
                raise InvalidArgument("exec process is not started")
        try:
            await self._parts.runtime.resize(exec_.container.id, width, height, exec_.id)
        except NotFound:
            raise FailedPrecondition(f"exec {exec_.id} is not running") from None


def _remove_fifos(folder: Path, exec_id: str) -> None:
    for name in ("stdin", "stdout", "stderr"):
        (folder / f"{exec_id}-{name}").unlink(missing_ok=True)
