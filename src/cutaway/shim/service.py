"""The task service: wire messages to calls on containers, and what happens to events.

Served under both names containerd has given it; version 3 differs in nothing but the name.
"""

import os

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from cutaway.errors import AlreadyExists, InvalidArgument, NotFound
from cutaway.pb import process_pb2, shim_pb2, task_events_pb2
from cutaway.shim import options
from cutaway.shim.container import Bundle, Container, new_container
from cutaway.shim.loop import Event
from cutaway.shim.mounts import Mount
from cutaway.shim.stdio import Stdio
from cutaway.shim.tracing import step
from cutaway.shim.ttrpc.server import Method
from cutaway.trace import spans
from cutaway.trace.context import HEADER, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from google.protobuf.message import Message

    from cutaway.shim.checkpoint import Saved
    from cutaway.shim.container import Host
    from cutaway.shim.events import Publisher
    from cutaway.shim.oom import OomWatcher
    from cutaway.shim.options import Options
    from cutaway.shim.process import Process
    from cutaway.shim.ttrpc.server import Call
    from cutaway.trace.context import SpanContext

    Handler = Callable[[Any], Coroutine[Event, None, Message]]

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")

# Timestamp of Go's zero time, which containerd's parts send for "never".
_NEVER_SECONDS = -62135596800

_STATUS = {
    "created": process_pb2.CREATED,
    "running": process_pb2.RUNNING,
    "stopped": process_pb2.STOPPED,
    "paused": process_pb2.PAUSED,
    "pausing": process_pb2.PAUSING,
}
# Calls that only look or wait: as spans they would be noise.
_UNTRACED = frozenset({"State", "Wait", "Connect", "Pids", "Stats"})


def methods(service: "TaskService") -> dict[tuple[str, str], Method]:
    """What the server serves."""
    table: dict[tuple[str, str], Method] = {}
    for name, attribute, request in _METHODS:
        handler = getattr(service, attribute)
        served = Method(request, _traced(service, name, handler), only_waits=name == "Wait")
        for full_name in SERVICES:
            table[full_name, name] = served
    return table


def _snake(name: str) -> str:
    """`ResizePty` is `resize_pty`, `CloseIO` is `close_io`."""
    words = name.replace("IO", "Io")
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(words))


# Looked up once: every shim is a fork of a process that has done so.
_METHODS = tuple(
    (method.name, _snake(method.name), GetMessageClass(method.input_type))
    for method in shim_pb2.DESCRIPTOR.services_by_name["Task"].methods
)


def _traced(
    service: "TaskService", name: str, handler: "Handler"
) -> "Callable[[Any, Call], Coroutine[Event, None, Message]]":
    """A span around a call that came with a trace (or was made by a shim that was started in one)."""

    async def call(request: "Any", call: "Call") -> "Message":
        parent = parse(call.metadata.get(HEADER)) or service.started_in
        if parent is None or name in _UNTRACED:
            return await handler(request)
        token = spans.attach(parent)
        try:
            with step(f"task {name}", kind=spans.SERVER, container=request.id):
                return await handler(request)
        finally:
            spans.detach(token)

    return call


class TaskService:
    """All calls of `containerd.task.v2.Task`, for the containers of this shim."""

    def __init__(
        self,
        host: "Host",
        publisher: "Publisher",
        oom: "OomWatcher",
        binary: str,
        shutdown: "Callable[[], None]",
        started_in: "SpanContext | None",
    ) -> None:
        self.started_in = started_in
        self._host = host
        self._publisher = publisher
        self._oom = oom
        self._binary = binary
        self._shutdown = shutdown
        self._containers: dict[str, Container] = {}
        self._creating: dict[str, Event] = {}

    def _container(self, id: str) -> Container:
        container = self._containers.get(id)
        if container is None:
            raise NotFound("container not created")
        return container

    async def create(self, request: shim_pb2.CreateTaskRequest) -> "Message":
        if request.id in self._containers or request.id in self._creating:
            raise AlreadyExists(f"container {request.id}")
        if not (request.id and request.bundle):
            raise InvalidArgument("a task needs an id and a bundle")
        settings = options.from_any(request.options)
        container = new_container(
            self._host,
            request.id,
            Bundle(request.bundle, [_mount(m) for m in request.rootfs], _saved(request, settings)),
            Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
            settings,
            self._binary,
        )
        self._creating[request.id] = Event()
        try:
            await container.create()
        finally:
            self._creating.pop(request.id).set()
        return shim_pb2.CreateTaskResponse(pid=container.init.pid)

    def created(self, container: Container) -> None:
        """Told by the container, before its exit can be."""
        self._containers[container.id] = container
        stdio = container.init.stdio
        event = task_events_pb2.TaskCreate(
            container_id=container.id,
            bundle=container.bundle.path,
            pid=container.init.pid,
            checkpoint=container.bundle.saved.path if container.bundle.saved else "",
        )
        event.io.stdin, event.io.stdout, event.io.stderr = stdio.stdin, stdio.stdout, stdio.stderr
        event.io.terminal = stdio.terminal
        for mount in container.bundle.rootfs:
            event.rootfs.add(type=mount.kind, source=mount.source, target=mount.target, options=mount.options)
        self._publisher.publish(event)
        if container.init.pid:
            self._oom.watch(container.id, container.cgroup)

    async def start(self, request: shim_pb2.StartRequest) -> "Message":
        process = await self._container(request.id).start(request.exec_id)
        return shim_pb2.StartResponse(pid=process.pid)

    def started(self, container: Container, process: "Process") -> None:
        """Told by the container."""
        if process is container.init:
            self._publisher.publish(task_events_pb2.TaskStart(container_id=container.id, pid=process.pid))
            self._oom.watch(container.id, container.cgroup)
        else:
            self._publisher.publish(
                task_events_pb2.TaskExecStarted(
                    container_id=container.id, exec_id=process.id, pid=process.pid
                )
            )

    def exited(self, container: Container, process: "Process") -> None:
        """Told by the container; whoever waits is told after this."""
        if process is container.init:
            self._oom.forget(container.id)
        self._publisher.publish(
            task_events_pb2.TaskExit(
                container_id=container.id,
                id=process.id,
                pid=process.pid,
                exit_status=process.status,
                exited_at=_exited_at(process),
            )
        )

    async def delete(self, request: shim_pb2.DeleteRequest) -> "Message":
        if creation := self._creating.get(request.id):
            await creation  # who has given it up undoes it: nothing must come of it after that
        container = self._container(request.id)
        process = await container.delete(request.exec_id)
        pid, status, at = process.pid, process.status, _exited_at(process)
        if process is container.init:
            del self._containers[request.id]
            self._publisher.publish(
                task_events_pb2.TaskDelete(container_id=request.id, pid=pid, exit_status=status, exited_at=at)
            )
        return shim_pb2.DeleteResponse(pid=pid, exit_status=status, exited_at=at)

    async def exec(self, request: shim_pb2.ExecProcessRequest) -> "Message":
        container = self._container(request.id)
        if not request.exec_id or "/" in request.exec_id:
            raise InvalidArgument(f"exec id {request.exec_id!r}: must be a file name")
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        container.exec(request.exec_id, stdio, request.spec.value)
        self._publisher.publish(
            task_events_pb2.TaskExecAdded(container_id=container.id, exec_id=request.exec_id)
        )
        return Empty()

    async def state(self, request: shim_pb2.StateRequest) -> "Message":
        container = self._container(request.id)
        process = container.find(request.exec_id)
        return shim_pb2.StateResponse(
            id=process.id,
            bundle=container.bundle.path,
            pid=process.pid,
            status=_STATUS[container.state_of(process)],
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=process.status,
            exited_at=_exited_at(process),
        )

    async def wait(self, request: shim_pb2.WaitRequest) -> "Message":
        process = self._container(request.id).find(request.exec_id)
        await process.exited
        return shim_pb2.WaitResponse(exit_status=process.status, exited_at=_exited_at(process))

    async def kill(self, request: shim_pb2.KillRequest) -> "Message":
        await self._container(request.id).kill(request.exec_id, request.signal, request.all)
        return Empty()

    async def pids(self, request: shim_pb2.PidsRequest) -> "Message":
        container = self._container(request.id)
        response = shim_pb2.PidsResponse()
        execs = {process.pid: process.id for process in container.execs.values()}
        for pid in await container.pids():
            info = response.processes.add(pid=pid)
            if pid in execs:
                _add_details(info, execs[pid])
        return response

    async def pause(self, request: shim_pb2.PauseRequest) -> "Message":
        await self._container(request.id).pause()
        self._publisher.publish(task_events_pb2.TaskPaused(container_id=request.id))
        return Empty()

    async def resume(self, request: shim_pb2.ResumeRequest) -> "Message":
        await self._container(request.id).resume()
        self._publisher.publish(task_events_pb2.TaskResumed(container_id=request.id))
        return Empty()

    async def checkpoint(self, request: shim_pb2.CheckpointTaskRequest) -> "Message":
        from cutaway.shim.checkpoint import options_of

        await self._container(request.id).checkpoint(request.path, options_of(request.options))
        return Empty()

    async def update(self, request: shim_pb2.UpdateTaskRequest) -> "Message":
        await self._container(request.id).update(request.resources.value)
        return Empty()

    async def close_io(self, request: shim_pb2.CloseIORequest) -> "Message":
        self._container(request.id).find(request.exec_id).io.close_stdin()
        return Empty()

    async def resize_pty(self, request: shim_pb2.ResizePtyRequest) -> "Message":
        process = self._container(request.id).find(request.exec_id)
        process.io.resize(request.width & 0xFFFF, request.height & 0xFFFF)
        return Empty()

    async def stats(self, request: shim_pb2.StatsRequest) -> "Message":
        from cutaway.shim.stats import metrics

        container = self._container(request.id)
        response = shim_pb2.StatsResponse()
        found = metrics(container.cgroup())
        response.stats.type_url = found.DESCRIPTOR.full_name
        response.stats.value = found.SerializeToString()
        return response

    async def connect(self, request: shim_pb2.ConnectRequest) -> "Message":
        container = self._containers.get(request.id)
        return shim_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=container.init.pid if container else 0)

    async def shutdown(self, request: shim_pb2.ShutdownRequest) -> "Message":
        """End the shim, unless there are still containers in it."""
        if not self._containers and not self._creating:
            self._shutdown()
        return Empty()


def _mount(mount: "Any") -> Mount:
    return Mount(mount.type, mount.source, mount.target, list(mount.options))


def _saved(request: shim_pb2.CreateTaskRequest, settings: "Options") -> "Saved | None":
    if not request.checkpoint:
        return None
    from cutaway.shim.checkpoint import Saved

    return Saved(request.checkpoint, request.parent_checkpoint, settings, request.bundle)


def _exited_at(process: "Process") -> Timestamp:
    stamp = Timestamp(seconds=_NEVER_SECONDS)
    if process.exit is not None:
        stamp.FromNanoseconds(process.exit.at_ns)
    return stamp


def _add_details(info: process_pb2.ProcessInfo, exec_id: str) -> None:
    from cutaway.pb.runc_options_pb2 import ProcessDetails

    info.info.type_url = ProcessDetails.DESCRIPTOR.full_name
    info.info.value = ProcessDetails(exec_id=exec_id).SerializeToString()
