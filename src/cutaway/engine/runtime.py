"""containerd's containers, tasks and snapshots as the engine uses them: plain values in, plain values out.

Nothing here knows Docker; nothing above here knows protobuf. The raw JSON documents (spec, process,
resources) travel in an Any whose type URL is the bare name containerd's clients use (seams.md, trap 12).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.settings import Runtime
from cutaway.engine.timestamps import from_protobuf, now_ns, rfc3339
from cutaway.oci import document, runtime_spec
from cutaway.pb import (
    containers_pb2,
    events_pb2,
    mount_pb2,
    process_pb2,
    runc_options_pb2,
    snapshots_pb2,
    task_events_pb2,
    tasks_pb2,
    version_pb2,
)
from cutaway.pb.service import methods

_CONTAINERS: Final = methods(containers_pb2.DESCRIPTOR, "Containers")
_TASKS: Final = methods(tasks_pb2.DESCRIPTOR, "Tasks")
_SNAPSHOTS: Final = methods(snapshots_pb2.DESCRIPTOR, "Snapshots")
_EVENTS: Final = methods(events_pb2.DESCRIPTOR, "Events")
_VERSION: Final = methods(version_pb2.DESCRIPTOR, "Version")

_SPEC_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_PROCESS_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_RESOURCES_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_OPTIONS_URL: Final = "containerd.runc.v1.Options"

BUNDLE_LABEL: Final = "com.docker/engine.bundle.path"
"""Docker's label on the containers it makes; its value tells several daemons on one containerd apart."""
_GC_ROOT: Final = "containerd.io/gc.root"
_SYNC_TOPIC: Final = "/cutaway/subscribed"
_EXIT: Final = "/tasks/exit"
_OOM: Final = "/tasks/oom"


class TaskStatus(Enum):
    """A process's state in containerd; the numbers are the protocol's."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@dataclass(frozen=True)
class Task:
    """A container's first process, or one that was added (`exec_id`)."""

    id: str
    pid: int
    status: TaskStatus
    exit_code: int
    exited_ns: int


@dataclass(frozen=True)
class TaskExit:
    """A process has ended; `exec_id` is empty for a container's first one."""

    container_id: str
    exec_id: str
    pid: int
    exit_code: int
    exited_ns: int


@dataclass(frozen=True)
class TaskOom:
    """The kernel has killed something in the container for want of memory."""

    container_id: str


@dataclass(frozen=True)
class Subscribed:
    """The subscription stands: no later event will be missed."""


TaskEvent = TaskExit | TaskOom | Subscribed


@dataclass(frozen=True)
class Stdio:
    """Paths of a process's FIFOs, empty for a stream that it does not have."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class ContainerdRuntime:
    """The calls, in one namespace of one containerd, with one snapshotter."""

    def __init__(self, client: ContainerdClient, snapshotter: str, runtime_root: str) -> None:
        self._client = client
        self._snapshotter = snapshotter
        self._runtime_root = runtime_root

    async def version(self) -> tuple[str, str]:
        """containerd's version and revision."""
        reply: version_pb2.VersionResponse = await self._client.call(
            _VERSION["Version"], _VERSION["Version"].request(), timeout=5
        )
        return reply.version, reply.revision

    # -- snapshots -------------------------------------------------------------------------------

    async def prepare_snapshot(self, key: str, parent: str, owner: str) -> list[mount_pb2.Mount]:
        """A writable snapshot on top of an image's, kept from garbage collection until it is removed."""
        labels = {_GC_ROOT: rfc3339(now_ns()), BUNDLE_LABEL: owner}
        reply: snapshots_pb2.PrepareSnapshotResponse = await self._client.call(
            _SNAPSHOTS["Prepare"],
            snapshots_pb2.PrepareSnapshotRequest(
                snapshotter=self._snapshotter, key=key, parent=parent, labels=labels
            ),
        )
        return list(reply.mounts)

    async def snapshot_mounts(self, key: str) -> list[mount_pb2.Mount]:
        """How to mount a snapshot that was prepared before. Raises `NotFound`."""
        reply: snapshots_pb2.MountsResponse = await self._client.call(
            _SNAPSHOTS["Mounts"], snapshots_pb2.MountsRequest(snapshotter=self._snapshotter, key=key)
        )
        return list(reply.mounts)

    async def remove_snapshot(self, key: str) -> None:
        """Remove a snapshot; one that is not there is no error."""
        with suppress(errors.NotFound):
            await self._client.call(
                _SNAPSHOTS["Remove"],
                snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._snapshotter, key=key),
            )

    async def snapshot_usage(self, key: str) -> int:
        """Bytes that a snapshot itself takes, without its parents."""
        reply: snapshots_pb2.UsageResponse = await self._client.call(
            _SNAPSHOTS["Usage"], snapshots_pb2.UsageRequest(snapshotter=self._snapshotter, key=key)
        )
        return reply.size

    async def snapshots_of(self, owner_prefix: str) -> list[str]:
        """Keys of the snapshots that `prepare_snapshot` made for owners below a folder."""
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self._snapshotter)
        keys: list[str] = []
        async with aclosing(self._client.stream(_SNAPSHOTS["List"], request)) as replies:
            async for reply in replies:
                keys += [i.name for i in reply.info if i.labels[BUNDLE_LABEL].startswith(f"{owner_prefix}/")]
        return keys

    # -- containers ------------------------------------------------------------------------------

    async def create_container(
        self, container_id: str, *, spec: runtime_spec.Spec, runtime: Runtime, image: str, bundle: str
    ) -> None:
        """Tell containerd of a container; nothing runs yet. Raises `AlreadyExists`."""
        await self._client.call(
            _CONTAINERS["Create"],
            containers_pb2.CreateContainerRequest(
                container=containers_pb2.Container(
                    id=container_id,
                    image=image,
                    labels={BUNDLE_LABEL: bundle},
                    runtime=containers_pb2.Container.Runtime(
                        name=runtime.shim, options=self._options(runtime)
                    ),
                    spec=_json_any(_SPEC_URL, spec),
                    snapshotter=self._snapshotter,
                    snapshot_key=container_id,
                )
            ),
        )

    def _options(self, runtime: Runtime) -> AnyMessage | None:
        if not runtime.binary:
            return None
        options = runc_options_pb2.Options(binary_name=runtime.binary, root=self._runtime_root)
        return AnyMessage(type_url=_OPTIONS_URL, value=options.SerializeToString())

    async def container_spec(self, container_id: str) -> runtime_spec.Spec:
        """The spec a container was created with. Raises `NotFound`."""
        reply: containers_pb2.GetContainerResponse = await self._client.call(
            _CONTAINERS["Get"], containers_pb2.GetContainerRequest(id=container_id)
        )
        return document.loads(runtime_spec.Spec, reply.container.spec.value, "spec")

    async def containers_of(self, owner_prefix: str) -> list[str]:
        """Ids of the containers whose bundle label lies below a folder."""
        reply: containers_pb2.ListContainersResponse = await self._client.call(
            _CONTAINERS["List"], containers_pb2.ListContainersRequest()
        )
        return [c.id for c in reply.containers if c.labels[BUNDLE_LABEL].startswith(f"{owner_prefix}/")]

    async def delete_container(self, container_id: str) -> None:
        """Make containerd forget a container; one it does not know is no error."""
        with suppress(errors.NotFound):
            await self._client.call(
                _CONTAINERS["Delete"], containers_pb2.DeleteContainerRequest(id=container_id)
            )

    # -- tasks -----------------------------------------------------------------------------------

    async def create_task(
        self, container_id: str, *, rootfs: Iterable[mount_pb2.Mount], stdio: Stdio, runtime: Runtime
    ) -> int:
        """Make the container's process, stopped before it runs its program; returns the pid."""
        reply: tasks_pb2.CreateTaskResponse = await self._client.call(
            _TASKS["Create"],
            tasks_pb2.CreateTaskRequest(
                container_id=container_id,
                rootfs=rootfs,
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                terminal=stdio.terminal,
                options=self._options(runtime),
            ),
        )
        return reply.pid

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Let a created process run; returns its pid."""
        reply: tasks_pb2.StartResponse = await self._client.call(
            _TASKS["Start"], tasks_pb2.StartRequest(container_id=container_id, exec_id=exec_id)
        )
        return reply.pid

    async def wait(self, container_id: str, timeout: float) -> None:
        """Wait for the end of a container's process. Raises `NotFound`, `DeadlineExceeded`."""
        await self._client.call(
            _TASKS["Wait"], tasks_pb2.WaitRequest(container_id=container_id), timeout=timeout
        )

    async def delete_task(self, container_id: str, timeout: float | None = 30) -> int | None:
        """Reap a stopped task and unmount its root; its exit code, or None if there is no task."""
        try:
            reply: tasks_pb2.DeleteResponse = await self._client.call(
                _TASKS["Delete"], tasks_pb2.DeleteTaskRequest(container_id=container_id), timeout=timeout
            )
        except errors.NotFound:
            return None
        return reply.exit_status

    async def delete_process(self, container_id: str, exec_id: str) -> None:
        """Reap a stopped exec; one that is gone is no error."""
        with suppress(errors.NotFound):
            await self._client.call(
                _TASKS["DeleteProcess"],
                tasks_pb2.DeleteProcessRequest(container_id=container_id, exec_id=exec_id),
                timeout=30,
            )

    async def task(self, container_id: str, exec_id: str = "") -> Task | None:
        """A process's state, or None if there is none."""
        try:
            reply: tasks_pb2.GetResponse = await self._client.call(
                _TASKS["Get"], tasks_pb2.GetRequest(container_id=container_id, exec_id=exec_id)
            )
        except errors.NotFound:
            return None
        return _task(reply.process)

    async def kill(
        self, container_id: str, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal. Raises `NotFound` when the process has ended."""
        await self._client.call(
            _TASKS["Kill"],
            tasks_pb2.KillRequest(container_id=container_id, exec_id=exec_id, signal=signal, all=everyone),
        )

    async def add_process(
        self, container_id: str, exec_id: str, process: runtime_spec.Process, stdio: Stdio
    ) -> None:
        """Prepare a further process in a running container; `start` runs it."""
        await self._client.call(
            _TASKS["Exec"],
            tasks_pb2.ExecProcessRequest(
                container_id=container_id,
                exec_id=exec_id,
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                terminal=stdio.terminal,
                spec=_json_any(_PROCESS_URL, process),
            ),
        )

    async def close_stdin(self, container_id: str, exec_id: str = "") -> None:
        """Let the process see the end of its input once it has read what is in the FIFO."""
        with suppress(errors.NotFound, errors.FailedPrecondition):  # it may have ended meanwhile
            await self._client.call(
                _TASKS["CloseIO"],
                tasks_pb2.CloseIORequest(container_id=container_id, exec_id=exec_id, stdin=True),
            )

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        await self._client.call(
            _TASKS["ResizePty"],
            tasks_pb2.ResizePtyRequest(
                container_id=container_id, exec_id=exec_id, width=width, height=height
            ),
        )

    async def pause(self, container_id: str) -> None:
        await self._client.call(_TASKS["Pause"], tasks_pb2.PauseTaskRequest(container_id=container_id))

    async def resume(self, container_id: str) -> None:
        await self._client.call(_TASKS["Resume"], tasks_pb2.ResumeTaskRequest(container_id=container_id))

    async def pids(self, container_id: str) -> list[int]:
        """The processes in a container, as the host numbers them."""
        reply: tasks_pb2.ListPidsResponse = await self._client.call(
            _TASKS["ListPids"], tasks_pb2.ListPidsRequest(container_id=container_id)
        )
        return [process.pid for process in reply.processes]

    async def update(self, container_id: str, resources: runtime_spec.Resources) -> None:
        """Change a running container's limits."""
        await self._client.call(
            _TASKS["Update"],
            tasks_pb2.UpdateTaskRequest(
                container_id=container_id, resources=_json_any(_RESOURCES_URL, resources)
            ),
        )

    async def metrics(self, container_id: str) -> AnyMessage | None:
        """What the cgroups count for a container: an Any of cgroups v1 or v2 metrics."""
        reply: tasks_pb2.MetricsResponse = await self._client.call(
            _TASKS["Metrics"], tasks_pb2.MetricsRequest(filters=[f"id=={container_id}"])
        )
        return reply.metrics[0].data if reply.metrics else None

    # -- events ----------------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[TaskEvent, None]:
        """Exits and OOM kills as they happen, for ever; ends by an exception when containerd goes away.

        containerd does not tell when a subscription has begun. So an event of our own is subscribed to
        and published, again and again, until it comes back: `Subscribed` is what the caller sees of it.
        """
        within = f"namespace=={self._client.namespace}"
        request = events_pb2.SubscribeRequest(
            filters=[f'{within},topic=="{topic}"' for topic in (_EXIT, _OOM, _SYNC_TOPIC)]
        )
        knocking = asyncio.get_running_loop().create_task(self._knock())
        try:
            async with aclosing(self._client.stream(_EVENTS["Subscribe"], request)) as envelopes:
                async for envelope in envelopes:
                    if envelope.topic == _SYNC_TOPIC:
                        if not knocking.done():
                            knocking.cancel()
                            yield Subscribed()
                    elif event := _event(envelope.topic, envelope.event):
                        yield event
        finally:
            knocking.cancel()

    async def _knock(self) -> None:
        event = AnyMessage(type_url="containerd.events.TaskOOM", value=b"")
        while True:
            await self._client.call(
                _EVENTS["Publish"],
                events_pb2.PublishRequest(topic=_SYNC_TOPIC, event=event),
                timeout=10,
                wait_for_ready=True,
            )
            await asyncio.sleep(0.05)  # ends with the first answer: a few tries at most, once a connection


def _task(process: process_pb2.Process) -> Task:
    try:
        status = TaskStatus(process.status)
    except ValueError:
        status = TaskStatus.UNKNOWN
    return Task(process.id, process.pid, status, process.exit_status, from_protobuf(process.exited_at))


def _event(topic: str, event: AnyMessage) -> TaskEvent | None:
    try:
        if topic == _EXIT:
            told = task_events_pb2.TaskExit.FromString(event.value)
            exec_id = told.id if told.id != told.container_id else ""
            return TaskExit(
                told.container_id, exec_id, told.pid, told.exit_status, from_protobuf(told.exited_at)
            )
        if topic == _OOM:
            return TaskOom(task_events_pb2.TaskOOM.FromString(event.value).container_id)
    except DecodeError:
        return None  # not an event of the kind its topic says; nothing of ours sends that
    return None


def _json_any(url: str, value: document.Document) -> AnyMessage:
    return AnyMessage(type_url=url, value=document.dumps(value).encode())


def describe_mounts(mounts: Sequence[mount_pb2.Mount]) -> str:
    """A snapshot's mounts in one line, for the trace."""
    return "; ".join(f"{m.type} {m.source} {','.join(m.options)}" for m in mounts)
