"""Events by gRPC, ttrpc and the publish command, asserted on containerd and then on ours."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from containerd.task_rig import Events, Refused, Rig, beside, refused
from cutaway.containerd.ttrpc.client import Client
from cutaway.errors import InvalidArgument
from cutaway.pb import container_events_pb2, events_pb2, events_ttrpc_pb2, task_events_pb2
from cutaway.pb.envelope_pb2 import Envelope
from cutaway.pb.service import methods
from support.netns import Command
from support.peers import VENV_BIN, peer
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

RULE = "must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument"


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig on containerd, then on cutaway-containerd."""
    with beside(request.param) as made:
        yield made


def exited(id: str = "c1", **fields: Any) -> AnyMessage:
    message = task_events_pb2.TaskExit(container_id=id, id=id, **fields)
    return AnyMessage(type_url="containerd.events.TaskExit", value=message.SerializeToString())


def publish(on: Rig, topic: str, event: AnyMessage | None = None, namespace: str = "") -> None:
    service = on.api(events_pb2.DESCRIPTOR, "Events", namespace=namespace)
    service("Publish", topic=topic, event=event or exited())


@pytest.mark.parametrize(
    ("filters", "topics"),
    [
        (['topic=="/a/one"'], ["/a/one"]),
        (["topic~=|^/a/|"], ["/a/one", "/a/two"]),
        (['topic=="/a/one"', 'topic=="/b"'], ["/a/one", "/b"]),
        (['topic~=|^/a/|,topic!="/a/one"'], ["/a/two"]),
        (["event.container_id==c2"], ["/a/two"]),
        (["event.exit_status==0", 'topic=="/b"'], ["/b"]),
        (["event.nothing", 'topic=="/b"'], ["/b"]),
        (['event.labels."with.dots"==yes'], ["/labelled"]),
        (["event.labels.with.dots==yes"], ["/labelled"]),
        (["event.runtime.name==r"], ["/labelled"]),
        (["namespace==other", 'topic=="/b"'], ["/b", "/elsewhere"]),
    ],
)
def test_filters_choose_events(on: Rig, filters: list[str], topics: list[str]) -> None:
    with on.events(*filters, 'topic=="/end"') as events:
        publish(on, "/a/one")
        publish(on, "/a/two", exited("c2"))
        publish(on, "/b", AnyMessage(type_url="unknown.Type", value=b"\xff"))
        labelled = container_events_pb2.ContainerCreate(
            id="c", runtime=container_events_pb2.ContainerCreate.Runtime(name="r")
        )
        update = container_events_pb2.ContainerUpdate(id="c", labels={"with.dots": "yes"})
        either = labelled if "runtime" in filters[0] else update
        kind = either.DESCRIPTOR.full_name
        publish(on, "/labelled", AnyMessage(type_url=kind, value=either.SerializeToString()))
        publish(on, "/elsewhere", namespace="other")
        publish(on, "/end")
        assert [event.topic for event in events.until("/end")] == [*topics, "/end"]


def test_event_arrives_as_it_was_published(on: Rig) -> None:
    foreign = AnyMessage(type_url="type.googleapis.com/some.Type", value=b"\x01\x02")
    with on.events('topic=="/foreign"') as events:
        publish(on, "/foreign", foreign)
        event = events.next()
    assert (event.namespace, event.topic, event.event) == (on.namespace, "/foreign", foreign)
    assert event.timestamp.seconds > 1_600_000_000


def test_forwarded_event_keeps_its_time_and_namespace(on: Rig) -> None:
    envelope = Envelope(timestamp=Timestamp(seconds=7, nanos=8), namespace="far", topic="/f", event=exited())
    with on.events('topic=="/f"') as events:
        on.event_service("Forward", envelope=envelope)
        assert events.next() == envelope


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("", "must not be empty: invalid argument"),
        ("x", "must start with '/': invalid argument"),
        ("/", "must have at least one component: invalid argument"),
        ("/a//b", 'failed validation on component "": identifier must not be empty: invalid argument'),
        ("/a b", f'failed validation on component "a b": identifier "a b" {RULE}'),
    ],
)
def test_bad_topic(on: Rig, topic: str, why: str) -> None:
    with refused("INVALID_ARGUMENT", f'envelope topic "{topic}": {why}'):
        publish(on, topic)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "event envelope has invalid namespace: identifier must not be empty: invalid argument"),
        ({"namespace": "a b"}, f'event envelope has invalid namespace: identifier "a b" {RULE}'),
        ({"namespace": "a"}, 'envelope topic "": must not be empty: invalid argument'),
        (
            {"namespace": "a", "topic": "/a"},
            "timestamp must be set on forwarded event: invalid argument",
        ),
    ],
)
def test_bad_envelope(on: Rig, fields: dict[str, str], why: str) -> None:
    with refused("INVALID_ARGUMENT", why):
        on.event_service("Forward", envelope=Envelope(**fields))  # type: ignore[arg-type]


BAD_FILTERS = {
    "topic=x": '[topic >|=|< x]: unsupported operator "="',
    'topic=="open': '[topic== >|"|< open]: quoted literal not terminated',
    "topic~=|open": "[topic~= >|||< open]: quoted literal not terminated",
    r'topic=="\xg"': r'[topic== >|"|< \xg"]: illegal numeric escape sequence',
    r'topic=="\400"': r'[topic== >|"|< \400"]: unquoting failed: quote syntax error',
}


@pytest.mark.parametrize(("text", "why"), BAD_FILTERS.items())
def test_bad_filter_ends_the_subscription(on: Rig, text: str, why: str) -> None:
    with Events(on.event_service.stream("Subscribe", filters=[text])) as events:
        found = events.end()
    assert isinstance(found, Refused)
    said = f"filters: parse error: {why}: invalid argument"
    assert found.code == "UNKNOWN"
    assert found.text == f"subscription error: failed parsing subscription filters: {said}"
    with refused("UNKNOWN", said):
        on.tasks("Metrics", filters=[text])


def forward(on: Rig, envelope: Envelope) -> None:
    """What a shim does: over the daemon's ttrpc socket."""
    method = methods(events_ttrpc_pb2.DESCRIPTOR, "Events")["Forward"]

    async def call() -> None:
        client = await Client.connect(f"{on.daemon.address}.ttrpc")
        try:
            await client.call(method, events_ttrpc_pb2.ForwardRequest(envelope=envelope), timeout=10)
        finally:
            client.close()
            await client.closed

    asyncio.run(call())


def test_shims_forward_over_ttrpc(on: Rig) -> None:
    envelope = Envelope(
        timestamp=Timestamp(seconds=7), namespace=on.namespace, topic="/tasks/exit", event=exited()
    )
    with on.events('topic=="/tasks/exit"') as events:
        forward(on, envelope)
        assert events.next() == envelope
    with pytest.raises(InvalidArgument, match="must not be empty"):
        forward(on, Envelope(timestamp=Timestamp(seconds=7), namespace=on.namespace))


@pytest.mark.parametrize("program", ["containerd", "cutaway-containerd"])
def test_either_publish_command_serves_either_daemon(on: Rig, program: str) -> None:
    path = peer("containerd") if program == "containerd" else VENV_BIN / program
    command: Command = [path, "--address", on.daemon.address, "publish", "--topic", "/by/command"]
    with on.events('topic=="/by/command"') as events:
        subprocess.run(
            [*command, "--namespace", "spoken"],
            input=exited("c9").SerializeToString(),
            env=on.daemon.env,
            check=True,
        )
        event = events.next()
    assert (event.namespace, event.topic, event.event) == ("spoken", "/by/command", exited("c9"))


@pytest.mark.parametrize(
    ("arguments", "given", "why"),
    [
        (["--namespace", "n"], b"", "topic required"),
        (["--namespace", "n", "--topic", "x"], b"", "must start with '/'"),
        (["--topic", "/x"], b"", "namespace is required"),
        (["--namespace", "n", "--topic", "/x"], b"\xff", "standard input holds no event"),
    ],
)
def test_what_our_publish_command_refuses(on: Rig, arguments: list[str], given: bytes, why: str) -> None:
    program = VENV_BIN / "cutaway-containerd"
    command: Command = [program, "--address", on.daemon.address, "publish", *arguments]
    done = subprocess.run(command, input=given, env=on.daemon.env, capture_output=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert why in line
    assert line.startswith("cutaway-containerd: ")
