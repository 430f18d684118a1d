"""containerd.services.events.v1.Events, on top of the daemon's bus."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from cutaway.containerd import filters, names
from cutaway.containerd.bus import Bus, Event
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import timestamp
from cutaway.containerd.tasks.missed import MissedExits
from cutaway.errors import InvalidArgument, Unknown
from cutaway.pb import (
    container_events_pb2,
    content_events_pb2,
    envelope_pb2,
    image_events_pb2,
    namespace_events_pb2,
    snapshot_events_pb2,
    task_events_pb2,
)
from cutaway.pb import events_pb2 as pb

KINDS: dict[str, type[Message]] = {
    message.DESCRIPTOR.full_name: message
    for module in (
        container_events_pb2,
        content_events_pb2,
        image_events_pb2,
        namespace_events_pb2,
        snapshot_events_pb2,
        task_events_pb2,
    )
    for message in vars(module).values()
    if isinstance(message, type) and issubclass(message, Message)
}

# The seconds of Go's zero time.
GO_ZERO = -62135596800


class Events(Service):
    file = pb.DESCRIPTOR
    name = "Events"

    def __init__(self, bus: Bus, missed: MissedExits) -> None:
        self._bus = bus
        self._missed = missed

    async def publish(self, request: pb.PublishRequest, call: Call) -> Empty:
        _validate_topic(request.topic)
        event = request.event
        self._bus.forward(Event(time.time_ns(), call.namespace, request.topic, event.type_url, event.value))
        return Empty()

    async def forward(self, request: pb.ForwardRequest, call: Call) -> Empty:
        self._bus.forward(event_of(request.envelope))
        return Empty()

    async def subscribe(
        self, request: pb.SubscribeRequest, call: Call
    ) -> AsyncIterator[envelope_pb2.Envelope]:
        try:
            wanted = filters.parse_all(request.filters)
        except InvalidArgument as error:  # containerd loses the class of it
            raise Unknown(f"subscription error: failed parsing subscription filters: {error}") from None
        async with self._bus.subscribe() as subscription:
            for event in self._missed.recent():
                subscription.offer(event)
            async for event in subscription:
                if wanted.matches(lookup(event)):
                    yield envelope(event)


def lookup(event: Event) -> Callable[[Sequence[str]], str | None]:
    """An event's fields for filters: namespace, topic, and its own below `event`."""

    def field(path: Sequence[str]) -> str | None:
        match path:
            case ["namespace"]:
                return event.namespace or None
            case ["topic"]:
                return event.topic or None
            case ["event", *rest]:
                return _own_field(event, rest)
        return None

    return field


def _own_field(event: Event, path: Sequence[str]) -> str | None:
    kind = KINDS.get(event.type_url.rpartition("/")[2])
    if kind is None or not path:
        return None
    try:
        value: object = kind.FromString(event.value)
    except DecodeError:
        return None
    for at, name in enumerate(path):
        if isinstance(value, Mapping):  # labels, whose keys hold dots
            return value.get(".".join(path[at:]))
        known = isinstance(value, Message) and name in value.DESCRIPTOR.fields_by_name
        value = getattr(value, name) if known else None
    if isinstance(value, bool):
        return str(value).lower()
    return value or None if isinstance(value, str) else None


def envelope(event: Event) -> envelope_pb2.Envelope:
    return envelope_pb2.Envelope(
        timestamp=timestamp(event.timestamp_ns),
        namespace=event.namespace,
        topic=event.topic,
        event=Any(type_url=event.type_url, value=event.value),
    )


def event_of(received: envelope_pb2.Envelope) -> Event:
    """An envelope that a shim or client made. Raises `InvalidArgument`."""
    try:
        names.validate(received.namespace)
    except InvalidArgument as error:
        raise InvalidArgument(f"event envelope has invalid namespace: {error}") from None
    _validate_topic(received.topic)
    if not received.HasField("timestamp") or received.timestamp.seconds == GO_ZERO:
        raise InvalidArgument("timestamp must be set on forwarded event: invalid argument")
    event = received.event
    return Event(
        received.timestamp.ToNanoseconds(),
        received.namespace,
        received.topic,
        event.type_url,
        event.value,
    )


def _validate_topic(topic: str) -> None:
    try:
        if not topic:
            raise InvalidArgument("must not be empty: invalid argument")
        if not topic.startswith("/"):
            raise InvalidArgument("must start with '/': invalid argument")
        if topic == "/":
            raise InvalidArgument("must have at least one component: invalid argument")
        for component in topic[1:].split("/"):
            _validate_component(component)
    except InvalidArgument as error:
        raise InvalidArgument(f'envelope topic "{topic}": {error}') from None


def _validate_component(component: str) -> None:
    try:
        names.validate(component)
    except InvalidArgument as error:
        raise InvalidArgument(f'failed validation on component "{component}": {error}') from None
