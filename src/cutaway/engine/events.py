"""What happens in the engine, for `docker events`: the last ones are kept, new ones go to whoever listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cutaway.engine.timestamps import now_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutaway.engine.containers.model import Container

KEPT: Final = 256
_QUEUE: Final = 4096
_CONTAINER_ALIASES: Final = ("container", "image")


@dataclass(frozen=True)
class Event:
    """One thing that happened to one object; `time_ns` since the epoch."""

    type: str
    action: str
    id: str
    attributes: Mapping[str, str]
    time_ns: int

    def document(self) -> dict[str, object]:
        """Docker's JSON; the first three keys are those of API versions before 1.22, still sent."""
        legacy: dict[str, object] = {}
        if self.type in _CONTAINER_ALIASES:
            legacy = {"status": self.action, "id": self.id}
            if source := self.attributes.get("image"):
                legacy["from"] = source
        return {
            **legacy,
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": dict(self.attributes)},
            "scope": "local",
            "time": self.time_ns // 1_000_000_000,
            "timeNano": self.time_ns,
        }


class EventBus:
    """A short history and its listeners. A listener that falls far behind loses the oldest events."""

    def __init__(self, kept: int = KEPT) -> None:
        self._history: deque[Event] = deque(maxlen=kept)
        self._listeners: set[asyncio.Queue[Event]] = set()

    def publish(
        self, kind: str, action: str, object_id: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Tell that something happened, now."""
        event = Event(kind, action, object_id, dict(attributes or {}), now_ns())
        self._history.append(event)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def container(self, container: Container, action: str, **more: str) -> None:
        """Tell of a container, with the attributes Docker gives: image, name and the labels."""
        attributes = {
            **(container.config.labels or {}),
            **more,
            "image": container.image,
            "name": container.name,
        }
        self.publish("container", action, container.id, attributes)

    def network(self, network_id: str, name: str, container_id: str, action: str) -> None:
        """Tell that a container has joined or left a network."""
        attributes = {"container": container_id, "name": name, "type": "null" if name == "none" else name}
        self.publish("network", action, network_id, attributes)

    def history(self) -> list[Event]:
        return list(self._history)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[Event]]:
        """A queue that gets every event from now on."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    @property
    def listeners(self) -> int:
        return len(self._listeners)
