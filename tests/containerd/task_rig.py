"""A containerd, real or ours, as a client sees it by gRPC: plain containers, their tasks, events."""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from cutaway.pb import (
    container_events_pb2,
    containers_pb2,
    envelope_pb2,
    events_pb2,
    runc_options_pb2,
    task_events_pb2,
    tasks_pb2,
)
from cutaway.pb.service import Method, methods
from support.leftovers import mounts_below, temporary_base
from support.netns import NetNs
from support.pace import SLOWNESS
from support.peers import need, peer
from support.process import processes_of, wait_until
from support.stack import Containerd

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
SECONDS = 20.0 * SLOWNESS

EVENTS: dict[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for module in (task_events_pb2, container_events_pb2)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Message)
}


class Refused(Exception):
    """A status other than OK: code and text, as (NOT_FOUND, "task x not found")."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(error.code().name, error.details())
        self.code: str = self.args[0]
        self.text: str = self.args[1]


class Api:
    """One service of a daemon; methods are called by their names."""

    def __init__(self, channel: grpc.Channel, namespace: str, file: FileDescriptor, name: str) -> None:
        self._channel = channel
        self.file = file
        self._metadata = (("containerd-namespace", namespace),)
        self._methods = methods(file, name)

    def _callable(self, method: Method) -> Any:
        kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        return kind(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def __call__(self, name: str, *, timeout: float = SECONDS, metadata: Any = (), **fields: Any) -> Any:
        """Call a unary method with the fields of its request. Raises `Refused`."""
        method = self._methods[name]
        try:
            return self._callable(method)(
                method.request(**fields), metadata=(*self._metadata, *metadata), timeout=timeout
            )
        except grpc.RpcError as error:
            raise Refused(error) from None

    def begin(self, name: str, **fields: Any) -> Any:
        """Call a unary method without waiting; returns grpc's future."""
        method = self._methods[name]
        return self._callable(method).future(
            method.request(**fields), metadata=self._metadata, timeout=SECONDS
        )

    def stream(self, name: str, **fields: Any) -> Any:
        method = self._methods[name]
        return self._callable(method)(method.request(**fields), metadata=self._metadata)


class Events:
    """A subscription, read on a thread of its own."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._queue: queue.Queue[envelope_pb2.Envelope | None] = queue.Queue()
        self.refused: Refused | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for envelope in self._call:
                self._queue.put(envelope)
        except grpc.RpcError as error:
            self.refused = Refused(error)
        self._queue.put(None)

    def next(self, timeout: float = SECONDS) -> envelope_pb2.Envelope:
        """The next event; an end of the stream is a failure."""
        envelope = self._queue.get(timeout=timeout)
        assert envelope is not None, f"subscription has ended: {self.refused}"
        return envelope

    def until(self, topic: str, timeout: float = SECONDS) -> list[envelope_pb2.Envelope]:
        """Everything up to and with the first event of a topic."""
        found = [self.next(timeout)]
        while found[-1].topic != topic:
            found.append(self.next(timeout))
        return found

    def end(self, timeout: float = SECONDS) -> Refused | None:
        """Wait for the end of the stream."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "subscription goes on"
        return self.refused

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()
        self._thread.join(SECONDS)


class Rig:
    """A daemon with a root filesystem to run things in."""

    def __init__(self, daemon: Containerd, rootfs: Path, runtime: str = "io.containerd.runc.v2") -> None:
        self.daemon = daemon
        self.runtime = runtime
        self.rootfs = rootfs
        self.namespace = daemon.namespace
        self._channel = grpc.insecure_channel(
            f"unix:{daemon.address}",
            options=(("grpc.max_reconnect_backoff_ms", 200), ("grpc.use_local_subchannel_pool", 1)),
        )
        self.tasks = self.api(tasks_pb2.DESCRIPTOR, "Tasks")
        self.containers = self.api(containers_pb2.DESCRIPTOR, "Containers")
        self.event_service = self.api(events_pb2.DESCRIPTOR, "Events")

    def api(self, file: FileDescriptor, name: str, namespace: str = "") -> Api:
        return Api(self._channel, namespace or self.namespace, file, name)

    def close(self) -> None:
        self._channel.close()

    def bundle(self, id: str) -> Path:
        return self.daemon.state / "io.containerd.runtime.v2.task" / self.namespace / id

    def work(self, id: str) -> Path:
        return self.daemon.root / "io.containerd.runtime.v2.task" / self.namespace / id

    def container(
        self,
        id: str,
        *args: str,
        runtime: str = "",
        options: AnyMessage | None = None,
        terminal: bool = False,
        spec: dict[str, object] | None = None,
    ) -> None:
        """Create a container that runs a command of busybox."""
        document = json.dumps(spec or self.spec(id, args, terminal)).encode()
        self.containers(
            "Create",
            container=containers_pb2.Container(
                id=id,
                spec=AnyMessage(type_url=SPEC, value=document),
                runtime=containers_pb2.Container.Runtime(name=runtime or self.runtime, options=options),
            ),
        )

    def spec(self, id: str, args: Sequence[str], terminal: bool = False) -> dict[str, object]:
        return {
            "ociVersion": "1.0.2",
            "process": process(*args, terminal=terminal),
            "root": {"path": os.fspath(self.rootfs)},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            ],
            "linux": {
                "cgroupsPath": f"/{self.namespace}/{id}",
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
                "resources": {"devices": [{"allow": True, "access": "rwm"}]},
            },
        }

    def running(self, id: str, *args: str, **more: Any) -> int:
        """Create a container with a task, start that; returns its pid."""
        self.container(id, *(args or ("sleep", "1000")), **more)
        self.tasks("Create", container_id=id)
        pid: int = self.tasks("Start", container_id=id).pid
        return pid

    def exec(self, id: str, exec_id: str, *args: str, **fields: Any) -> None:
        spec = AnyMessage(type_url=PROCESS, value=json.dumps(process(*args)).encode())
        self.tasks("Exec", container_id=id, exec_id=exec_id, spec=spec, **fields)

    def end(self, id: str) -> int:
        """Kill a task and delete it and its container; returns the exit code."""
        self.tasks("Kill", container_id=id, signal=9)
        self.tasks("Wait", container_id=id)
        return self.drop(id)

    def drop(self, id: str) -> int:
        """Delete a stopped task and its container."""
        status: int = self.tasks("Delete", container_id=id).exit_status
        self.containers("Delete", id=id)
        return status

    def events(self, *filters: str) -> Events:
        """Subscribe, and be sure of it: a daemon says nothing before the first event."""
        events = Events(self.event_service.stream("Subscribe", filters=[*filters, 'topic=="/rig/ready"']))
        for _ in range(200):
            self.event_service("Publish", topic="/rig/ready", event=AnyMessage(type_url="rig", value=b""))
            try:
                events.next(timeout=0.1)
                break
            except queue.Empty:
                continue
        return events

    def statuses(self) -> dict[str, int]:
        return {task.id: task.status for task in self.tasks("List").tasks}


def process(*args: str, terminal: bool = False) -> dict[str, object]:
    capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID"]
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
    }


def make_rootfs(folder: Path) -> Path:
    """A folder with busybox under the names that tests call."""
    for name in ("bin", "dev", "proc", "tmp"):
        (folder / name).mkdir(parents=True)
    program = folder / "bin/busybox"
    program.write_bytes(peer("busybox").read_bytes())
    program.chmod(0o755)
    for applet in ("sh", "sleep", "true", "false", "cat", "echo", "id", "stty", "kill"):
        (folder / "bin" / applet).symlink_to("busybox")
    return folder


@contextmanager
def rig(daemon: Containerd, base: Path, runtime: str = "io.containerd.runc.v2") -> Iterator[Rig]:
    """A rig of a daemon that runs; the daemon's end is whoever's started it."""
    rootfs = base / "rootfs"
    made = Rig(daemon, rootfs if rootfs.exists() else make_rootfs(rootfs), runtime)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def beside(daemon: type[Containerd], **more: Any) -> Iterator[Rig]:
    """A daemon of a kind, with the shim of runc and runc below it, and a rig for it."""
    need("containerd", "containerd-shim-runc-v2", "runc", "busybox")
    with temporary_base() as base, NetNs() as netns, daemon(base, netns, **more) as running:
        with rig(running, base) as made:
            yield made
        # Where the shims tell their runtime to keep its state, unless a client says otherwise.
        shutil.rmtree(f"/run/containerd/runc/{made.namespace}", ignore_errors=True)


@contextmanager
def refused(code: str, text: str) -> Iterator[None]:
    """What is inside is answered with this status."""
    with pytest.raises(Refused) as caught:
        yield
    assert (caught.value.code, caught.value.text) == (code, text)


def shims(on: Rig, id: str) -> list[int]:
    """The processes of a task's shim, known by their folder, which may have been removed under them."""
    folders = (on.bundle(id), on.bundle(id).with_name(f".{id}"))
    lines = processes_of(on.daemon.folder).items()
    return [pid for pid, line in lines if "shim" in line and working_folder(pid) in folders]


def working_folder(pid: int) -> Path | None:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)"))
    except OSError:
        return None


def assert_nothing_left(on: Rig, id: str) -> None:
    """No mount and no record, and in a moment no bundle and no shim."""
    assert mounts_below(on.bundle(id)) == []
    for folder in (on.bundle(id), on.work(id)):
        wait_until(lambda folder=folder: not folder.exists(), f"{folder} is gone")  # type: ignore[misc]
    wait_until(lambda: not shims(on, id), f"shim of {id} is gone")
    assert id not in on.statuses()


def fields_of(envelope: envelope_pb2.Envelope, *names: str) -> tuple[Any, ...]:
    """Fields of the message inside an event."""
    message = EVENTS[envelope.event.type_url].FromString(envelope.event.value)
    return tuple(getattr(message, name) for name in names)


def fifo(on: Rig, name: str) -> Path:
    path = on.daemon.folder / f"{name}.fifo"
    os.mkfifo(path)
    return path


def script(on: Rig, name: str, text: str) -> Path:
    """An executable shell script."""
    program = on.daemon.folder / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def runtime_options(binary_name: Path | str, root: str = "") -> AnyMessage:
    """What a client tells the shim of runc."""
    options = runc_options_pb2.Options(binary_name=str(binary_name), root=root)
    return AnyMessage(type_url="containerd.runc.v1.Options", value=options.SerializeToString())


class Reader:
    """Lines from a FIFO, which is open at both ends: whoever writes opens it when it likes."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC), "rb", buffering=0)

    def line(self) -> str:
        return self._file.readline().decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
