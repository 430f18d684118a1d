"""The protobuf modules agree with what was observed on the wire."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import empty_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from cutaway.pb import (
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    containers_pb2,
    content_pb2,
    events_pb2,
    events_ttrpc_pb2,
    health_pb2,
    image_events_pb2,
    images_pb2,
    leases_pb2,
    mount_pb2,
    process_pb2,
    runc_options_pb2,
    shim_pb2,
    shim_v3_pb2,
    snapshots_pb2,
    status_pb2,
    task_events_pb2,
    tasks_pb2,
    ttrpc_pb2,
)
from cutaway.pb.service import methods

SOURCE_ROOT = Path(__file__).resolve().parents[2] / "src"

FIELD_NUMBERS: list[tuple[type[Message], str, int]] = [
    (tasks_pb2.CreateTaskRequest, "rootfs", 3),
    (tasks_pb2.CreateTaskRequest, "options", 9),
    (tasks_pb2.CreateTaskRequest, "runtime_path", 10),
    (tasks_pb2.ExecProcessRequest, "exec_id", 7),
    (tasks_pb2.DeleteResponse, "exited_at", 4),
    (process_pb2.Process, "exit_status", 9),
    (containers_pb2.Container, "extensions", 10),
    (content_pb2.WriteContentRequest, "labels", 7),
    (content_pb2.WriteContentResponse, "digest", 6),
    (snapshots_pb2.CommitSnapshotRequest, "key", 3),
    (images_pb2.Image, "created_at", 7),
    (leases_pb2.CreateRequest, "labels", 3),
    (mount_pb2.Mount, "options", 4),
    (task_events_pb2.TaskCreate, "pid", 6),
    (task_events_pb2.TaskExit, "exited_at", 5),
    (task_events_pb2.TaskDelete, "id", 5),
    (runc_options_pb2.Options, "binary_name", 6),
    (runc_options_pb2.Options, "root", 7),
    (shim_pb2.CreateTaskRequest, "options", 10),
    (shim_pb2.StateResponse, "exec_id", 11),
    (shim_pb2.ConnectResponse, "version", 3),
    (ttrpc_pb2.Request, "timeout_nano", 4),
    (ttrpc_pb2.Request, "metadata", 5),
    (status_pb2.Status, "details", 3),
]


@pytest.mark.parametrize(("message", "field", "number"), FIELD_NUMBERS)
def test_field_numbers(message: type[Message], field: str, number: int) -> None:
    assert message.DESCRIPTOR.fields_by_name[field].number == number


TYPE_NAMES: list[tuple[type[Message], str]] = [
    (task_events_pb2.TaskExit, "containerd.events.TaskExit"),
    (image_events_pb2.ImageCreate, "containerd.services.images.v1.ImageCreate"),
    (runc_options_pb2.Options, "containerd.runc.v1.Options"),
    (cgroups_v1_pb2.Metrics, "io.containerd.cgroups.v1.Metrics"),
    (cgroups_v2_pb2.Metrics, "io.containerd.cgroups.v2.Metrics"),
]


@pytest.mark.parametrize(("message", "name"), TYPE_NAMES)
def test_type_names_carried_in_any(message: type[Message], name: str) -> None:
    assert message.DESCRIPTOR.full_name == name


def test_bytes_of_a_kill_request() -> None:
    request = tasks_pb2.KillRequest(container_id="c1", exec_id="e", signal=15, all=True)
    assert request.SerializeToString() == b"\x0a\x02c1\x12\x01e\x18\x0f\x20\x01"


def test_bytes_of_a_ttrpc_request() -> None:
    request = ttrpc_pb2.Request(
        service="containerd.task.v2.Task",
        method="State",
        payload=b"\x0a\x01x",
        timeout_nano=2_000_000_000,
        metadata=[ttrpc_pb2.KeyValue(key="k", value="v")],
    )
    assert request.SerializeToString() == (
        b"\x0a\x17containerd.task.v2.Task\x12\x05State\x1a\x03\x0a\x01x"
        b"\x20\x80\xa8\xd6\xb9\x07\x2a\x06\x0a\x01k\x12\x01v"
    )


def test_tasks_create_is_a_plain_call() -> None:
    create = methods(tasks_pb2.DESCRIPTOR, "Tasks")["Create"]
    assert create.service == "containerd.services.tasks.v1.Tasks"
    assert create.path == "/containerd.services.tasks.v1.Tasks/Create"
    assert create.request is tasks_pb2.CreateTaskRequest
    assert create.response is tasks_pb2.CreateTaskResponse
    assert (create.client_streaming, create.server_streaming) == (False, False)


def test_content_write_streams_both_ways() -> None:
    write = methods(content_pb2.DESCRIPTOR, "Content")["Write"]
    assert write.path == "/containerd.services.content.v1.Content/Write"
    assert write.request is content_pb2.WriteContentRequest
    assert (write.client_streaming, write.server_streaming) == (True, True)


STREAMING: list[tuple[FileDescriptor, str, set[str]]] = [
    (content_pb2.DESCRIPTOR, "Content", {"List", "Read", "Write"}),
    (containers_pb2.DESCRIPTOR, "Containers", {"ListStream"}),
    (snapshots_pb2.DESCRIPTOR, "Snapshots", {"List"}),
    (events_pb2.DESCRIPTOR, "Events", {"Subscribe"}),
    (health_pb2.DESCRIPTOR, "Health", {"Watch"}),
    (tasks_pb2.DESCRIPTOR, "Tasks", set()),
    (shim_pb2.DESCRIPTOR, "Task", set()),
]


@pytest.mark.parametrize(("file", "service", "streaming"), STREAMING)
def test_server_streaming_methods(file: FileDescriptor, service: str, streaming: set[str]) -> None:
    table = methods(file, service)
    assert {name for name, method in table.items() if method.server_streaming} == streaming


def test_well_known_response_type() -> None:
    forward = methods(events_ttrpc_pb2.DESCRIPTOR, "Events")["Forward"]
    assert forward.path == "/containerd.services.events.ttrpc.v1.Events/Forward"
    assert forward.response is empty_pb2.Empty


def test_shim_versions_have_the_same_methods() -> None:
    v2 = methods(shim_pb2.DESCRIPTOR, "Task")
    v3 = methods(shim_v3_pb2.DESCRIPTOR, "Task")
    assert list(v2) == list(v3)
    assert v3["Create"].path == "/containerd.task.v3.Task/Create"


def test_unknown_service() -> None:
    with pytest.raises(KeyError):
        methods(tasks_pb2.DESCRIPTOR, "Nope")


def test_service_tables_do_not_import_grpc() -> None:
    code = "import sys, cutaway.pb.service, cutaway.pb.shim_pb2; print('grpc' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "False\n"
