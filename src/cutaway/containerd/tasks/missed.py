"""Exits that nobody may have heard of, because the daemon was down.

A shim sends its events as soon as the daemon listens again, and clients subscribe again when they notice
that it does: which of them is first is chance. Some clients (dockerd) do not ask for what they missed.
So exits of adopted tasks are kept for a moment and told to everyone who subscribes in it. A client may
hear of an exit twice; the pid tells it that.
"""

from __future__ import annotations

import time

from google.protobuf.message import DecodeError

from cutaway.containerd.bus import Event
from cutaway.pb import task_events_pb2

# gRPC's clients try again after at most three seconds where dockerd has set them up.
SECONDS = 10.0

EXIT = "/tasks/exit"
_OVER: dict[str, type[task_events_pb2.TaskCreate] | type[task_events_pb2.TaskDelete]] = {
    "/tasks/create": task_events_pb2.TaskCreate,
    "/tasks/delete": task_events_pb2.TaskDelete,
}


class MissedExits:
    """Belongs to the event loop's thread."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._deadline = time.monotonic() + seconds
        self._adopted: set[tuple[str, str]] = set()
        self._kept: dict[tuple[str, str, str], Event] = {}
        """By namespace, container and process."""

    def adopt(self, namespace: str, container: str) -> None:
        """Keep the exits of this task from now on."""
        self._adopted.add((namespace, container))

    def note(self, event: Event) -> None:
        """An event on its way: keep an exit; forget a task that is deleted or created anew."""
        if self._over():
            return
        try:
            if event.topic == EXIT:
                exited = task_events_pb2.TaskExit.FromString(event.value)
                if (event.namespace, exited.container_id) in self._adopted:
                    self._kept[event.namespace, exited.container_id, exited.id] = event
            elif kind := _OVER.get(event.topic):
                self._forget(event.namespace, kind.FromString(event.value).container_id)
        except DecodeError:
            return  # not what the topic says: a client's own

    def recent(self) -> list[Event]:
        """What a new subscriber is to be told first."""
        return [] if self._over() else list(self._kept.values())

    def _forget(self, namespace: str, container: str) -> None:
        self._adopted.discard((namespace, container))
        for key in [key for key in self._kept if key[:2] == (namespace, container)]:
            del self._kept[key]

    def _over(self) -> bool:
        over = time.monotonic() > self._deadline
        if over:
            self._kept.clear()
            self._adopted.clear()
        return over
