"""What filters can see of an event."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from cutaway.containerd.bus import Event
from cutaway.containerd.services.events import KINDS, lookup
from cutaway.pb import container_events_pb2, image_events_pb2, task_events_pb2


def event(message: Message, type_url: str = "") -> Event:
    kind = type_url or message.DESCRIPTOR.full_name
    return Event(1, "ns", "/t", kind, message.SerializeToString())


EXIT = task_events_pb2.TaskExit(container_id="c", id="e", pid=7, exit_status=1)
CREATE = task_events_pb2.TaskCreate(container_id="c", io={"stdin": "/in", "terminal": True})
IMAGE = image_events_pb2.ImageUpdate(name="i", labels={"a.b": "yes", "empty": ""})
CONTAINER = container_events_pb2.ContainerCreate(id="c", runtime={"name": "r"})


@pytest.mark.parametrize(
    ("message", "path", "value"),
    [
        (EXIT, "namespace", "ns"),
        (EXIT, "topic", "/t"),
        (EXIT, "timestamp", None),
        (EXIT, "event", None),
        (EXIT, "event.container_id", "c"),
        (EXIT, "event.id", "e"),
        (EXIT, "event.pid", None),
        (EXIT, "event.exit_status", None),
        (EXIT, "event.exited_at", None),
        (EXIT, "event.nothing", None),
        (EXIT, "event.container_id.more", None),
        (CREATE, "event.io.stdin", "/in"),
        (CREATE, "event.io.terminal", "true"),
        (CREATE, "event.bundle", None),
        (CREATE, "event.rootfs", None),
        (IMAGE, "event.labels.a.b", "yes"),
        (IMAGE, "event.labels.none", None),
        (IMAGE, "event.labels.empty", ""),
        (CONTAINER, "event.runtime.name", "r"),
    ],
)
def test_field_of_an_event(message: Message, path: str, value: str | None) -> None:
    assert lookup(event(message))(path.split(".")) == value


def test_event_of_a_foreign_type_has_no_fields() -> None:
    assert lookup(event(EXIT, "foreign.Type"))(["event", "container_id"]) is None


def test_host_in_front_of_a_type_does_not_matter() -> None:
    found = lookup(event(EXIT, "type.googleapis.com/containerd.events.TaskExit"))(["event", "container_id"])
    assert found == "c"


def test_unreadable_event_has_no_fields() -> None:
    broken = Event(1, "ns", "/t", "containerd.events.TaskExit", b"\xff\xff")
    assert lookup(broken)(["event", "container_id"]) is None


@pytest.mark.parametrize("path", [["DESCRIPTOR"], ["SerializeToString"], ["__class__"], ["io", "__doc__"]])
def test_filters_see_fields_and_nothing_of_python(path: list[str]) -> None:
    assert lookup(event(CREATE))(["event", *path]) is None


def test_every_task_event_is_known() -> None:
    names = {f"containerd.events.Task{kind}" for kind in (
        "Create", "Start", "Delete", "IO", "Exit", "OOM", "ExecAdded", "ExecStarted", "Paused", "Resumed",
        "Checkpointed",
    )}  # fmt: skip
    assert names <= set(KINDS)
