"""containerd.services.tasks.v1.Tasks: the client's form of what shims do."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from cutaway.containerd import filters, names
from cutaway.containerd.metadata import containers
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services import checkpoints
from cutaway.containerd.services.convert import timestamp, to_any
from cutaway.containerd.tasks.manager import Manager, NewTask
from cutaway.containerd.tasks.shim import Shim
from cutaway.errors import CutawayError, InvalidArgument, NotFound, Unknown
from cutaway.pb import metrics_pb2, process_pb2, shim_pb2
from cutaway.pb import tasks_pb2 as pb

if TYPE_CHECKING:
    from cutaway.containerd.app import App


log = logging.getLogger("containerd.tasks")

# Seconds, as containerd has it.
STATE_TIMEOUT = 2.0

# Go's zero time.
NEVER = Timestamp(seconds=-62135596800)


class TaskService(Service):
    file = pb.DESCRIPTOR
    name = "Tasks"

    def __init__(self, app: App, manager: Manager) -> None:
        self._app = app
        self._manager = manager

    async def create(self, request: pb.CreateTaskRequest, call: Call) -> pb.CreateTaskResponse:
        container = self._app.db.look_up(containers.get, call.namespace, request.container_id)
        options = request.options if request.HasField("options") else to_any(container.options)
        task = NewTask(
            namespace=call.namespace,
            id=container.id,
            runtime=request.runtime_path or container.runtime,
            spec=container.spec.value if container.spec else b"",
            options=options,
            rootfs=request.rootfs,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            terminal=request.terminal,
            checkpoint=checkpoints.own_images(request.options if request.HasField("options") else None),
        )
        if task.checkpoint or not request.HasField("checkpoint"):
            shim = await self._manager.create(task)
        else:
            saved = await checkpoints.restorable(self._app, call.namespace, request.checkpoint)
            try:
                shim = await self._manager.create(replace(task, saved=partial(checkpoints.unpack, saved)))
            finally:
                os.close(saved)
        return pb.CreateTaskResponse(container_id=container.id, pid=shim.pid)

    async def start(self, request: pb.StartRequest, call: Call) -> pb.StartResponse:
        shim = await self._shim(request.container_id, call)
        started = await shim.call("Start", shim_pb2.StartRequest(id=shim.id, exec_id=request.exec_id))
        return pb.StartResponse(pid=started.pid)

    async def get(self, request: pb.GetRequest, call: Call) -> pb.GetResponse:
        shim = await self._shim(request.container_id, call)
        return pb.GetResponse(process=await process(shim, request.exec_id))

    async def list(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        states = await asyncio.gather(*(self._listed(shim) for shim in self._manager.all(call.namespace)))
        return pb.ListTasksResponse(tasks=[state for state in states if state is not None])

    async def _listed(self, shim: Shim) -> process_pb2.Process | None:
        """A task for the list: one that is just being deleted is left out."""
        try:
            return await process(shim, "")
        except NotFound:
            return None

    async def delete(self, request: pb.DeleteTaskRequest, call: Call) -> pb.DeleteResponse:
        shim = await self._shim(request.container_id, call)
        ended = await self._manager.delete(shim, call.remaining())
        return pb.DeleteResponse(pid=ended.pid, exit_status=ended.exit_status, exited_at=ended.exited_at)

    async def delete_process(self, request: pb.DeleteProcessRequest, call: Call) -> pb.DeleteResponse:
        shim = await self._shim(request.container_id, call)
        ended = await shim.call("Delete", shim_pb2.DeleteRequest(id=shim.id, exec_id=request.exec_id))
        return pb.DeleteResponse(
            id=request.exec_id, pid=ended.pid, exit_status=ended.exit_status, exited_at=ended.exited_at
        )

    async def kill(self, request: pb.KillRequest, call: Call) -> Empty:
        shim = await self._shim(request.container_id, call)
        return await self._done(
            shim,
            "Kill",
            shim_pb2.KillRequest(id=shim.id, exec_id=request.exec_id, signal=request.signal, all=request.all),
        )

    async def exec(self, request: pb.ExecProcessRequest, call: Call) -> Empty:
        if not request.exec_id:
            raise InvalidArgument("exec id cannot be empty")
        shim = await self._shim(request.container_id, call)
        try:
            names.validate(request.exec_id)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid exec id {request.exec_id}: {error}") from None
        return await self._done(
            shim,
            "Exec",
            shim_pb2.ExecProcessRequest(
                id=shim.id,
                exec_id=request.exec_id,
                terminal=request.terminal,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
                spec=request.spec,
            ),
        )

    async def resize_pty(self, request: pb.ResizePtyRequest, call: Call) -> Empty:
        shim = await self._shim(request.container_id, call)
        return await self._done(
            shim,
            "ResizePty",
            shim_pb2.ResizePtyRequest(
                id=shim.id, exec_id=request.exec_id, width=request.width, height=request.height
            ),
        )

    async def close_io(self, request: pb.CloseIORequest, call: Call) -> Empty:
        shim = await self._shim(request.container_id, call)
        if request.exec_id:
            # The shim of runc has no code for an exec that is missing here.
            await shim.state(request.exec_id, timeout=STATE_TIMEOUT)
        if not request.stdin:
            return Empty()
        closing = shim_pb2.CloseIORequest(id=shim.id, exec_id=request.exec_id, stdin=True)
        return await self._done(shim, "CloseIO", closing)

    async def pause(self, request: pb.PauseTaskRequest, call: Call) -> Empty:
        shim = await self._shim(request.container_id, call)
        return await self._done(shim, "Pause", shim_pb2.PauseRequest(id=shim.id))

    async def resume(self, request: pb.ResumeTaskRequest, call: Call) -> Empty:
        shim = await self._shim(request.container_id, call)
        return await self._done(shim, "Resume", shim_pb2.ResumeRequest(id=shim.id))

    async def list_pids(self, request: pb.ListPidsRequest, call: Call) -> pb.ListPidsResponse:
        shim = await self._shim(request.container_id, call)
        found = await shim.call("Pids", shim_pb2.PidsRequest(id=shim.id))
        return pb.ListPidsResponse(processes=found.processes)

    async def checkpoint(self, request: pb.CheckpointTaskRequest, call: Call) -> pb.CheckpointTaskResponse:
        shim = await self._shim(request.container_id, call)
        container = self._app.db.look_up(containers.get, call.namespace, request.container_id)
        options = request.options if request.HasField("options") else None
        saved = await checkpoints.save(self._app, shim, options, container.spec, call)
        return pb.CheckpointTaskResponse(descriptors=saved)

    async def update(self, request: pb.UpdateTaskRequest, call: Call) -> Empty:
        shim = await self._shim(request.container_id, call)
        changing = shim_pb2.UpdateTaskRequest(
            id=shim.id, resources=request.resources, annotations=request.annotations
        )
        return await self._done(shim, "Update", changing)

    async def metrics(self, request: pb.MetricsRequest, call: Call) -> pb.MetricsResponse:
        try:
            wanted = filters.parse_all(request.filters)
        except InvalidArgument as error:  # containerd loses the class of it
            raise Unknown(str(error)) from None
        shims = [shim for shim in self._manager.all(call.namespace) if wanted.matches(_lookup(shim))]
        found = await asyncio.gather(*map(measured, shims))
        return pb.MetricsResponse(metrics=[metric for metric in found if metric is not None])

    async def wait(self, request: pb.WaitRequest, call: Call) -> pb.WaitResponse:
        shim = await self._shim(request.container_id, call)
        ended = await shim.call("Wait", shim_pb2.WaitRequest(id=shim.id, exec_id=request.exec_id))
        return pb.WaitResponse(exit_status=ended.exit_status, exited_at=ended.exited_at)

    async def _shim(self, id: str, call: Call) -> Shim:
        """The task of a container. Raises `NotFound`, which says whether at least the container exists."""
        shim = self._manager.find(call.namespace, id)
        if shim is None:
            self._app.db.look_up(containers.get, call.namespace, id)
            raise NotFound(f"task {id} not found")
        return shim

    async def _done(self, shim: Shim, name: str, request: object) -> Empty:
        await shim.call(name, request)  # type: ignore[arg-type]
        return Empty()


async def process(shim: Shim, exec_id: str) -> process_pb2.Process:
    """A task's or exec's state as clients see it; unknown when the shim does not say it. Raises `NotFound`.

    The container's id stays empty, as containerd has it.
    """
    try:
        state = await shim.state(exec_id, timeout=STATE_TIMEOUT)
    except NotFound:
        raise
    except CutawayError as error:
        log.warning("state of %s/%s %s: %s", shim.namespace, shim.id, exec_id, error)
        state = shim_pb2.StateResponse(exited_at=NEVER)
    return process_pb2.Process(
        id=exec_id or shim.id,
        pid=state.pid,
        status=state.status,
        stdin=state.stdin,
        stdout=state.stdout,
        stderr=state.stderr,
        terminal=state.terminal,
        exit_status=state.exit_status,
        exited_at=state.exited_at,
    )


async def measured(shim: Shim) -> metrics_pb2.Metric | None:
    """A task's figures; None for one that has none any more."""
    try:
        answer = await shim.call("Stats", shim_pb2.StatsRequest(id=shim.id))
    except CutawayError:
        return None
    return metrics_pb2.Metric(timestamp=timestamp(time.time_ns()), id=shim.id, data=answer.stats)


def _lookup(shim: Shim) -> filters.Field:
    return lambda path: {"id": shim.id, "namespace": shim.namespace}.get(".".join(path))
