"""The daemon's event bus: everyone who asks gets every event from then on.

An event is published to whoever subscribes at that moment and kept for nobody else. A subscriber that
does not keep up is cut off with `ResourceExhausted` instead of growing the daemon without bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from google.protobuf.message import Message

from cutaway.errors import ResourceExhausted
from cutaway.faults import point

MAX_PENDING = 65536


@dataclass(frozen=True, slots=True)
class Event:
    """One event, in the form in which it crosses the seam only when somebody listens."""

    timestamp_ns: int
    namespace: str
    topic: str
    """Such as /images/create."""
    type_url: str
    """The message's bare full name, such as containerd.events.TaskExit."""
    value: bytes


class Subscription:
    """An async iterator of events; `close()` or leaving the `async with` block ends it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._overrun = False

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is not None:
            return event
        self._queue.put_nowait(None)
        if self._overrun:
            raise ResourceExhausted(
                f"more than {MAX_PENDING} events wait for this subscriber: subscribe again"
            )
        raise StopAsyncIteration

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bus.forget(self)
        self._queue.put_nowait(None)

    def offer(self, event: Event) -> None:
        """Hand an event over, or cut off a subscriber that has too many of them waiting."""
        if self._queue.qsize() >= MAX_PENDING:
            self._overrun = True
            self.close()
        else:
            self._queue.put_nowait(event)


def event_now(namespace: str, topic: str, message: Message) -> Event:
    """An event of the daemon's own, of this moment."""
    return Event(
        timestamp_ns=time.time_ns(),
        namespace=namespace,
        topic=topic,
        type_url=message.DESCRIPTOR.full_name,
        value=message.SerializeToString(),
    )


class Bus:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

    def publish(self, namespace: str, topic: str, message: Message) -> None:
        """Tell everyone, now. The order of calls is the order in which all subscribers see events."""
        self.forward(event_now(namespace, topic, message))

    def forward(self, event: Event) -> None:
        """Pass on an event that somebody else (a shim, a client) made."""
        point("containerd.events.before-telling")
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)

    def subscribe(self) -> Subscription:
        """Everything from this call on, whether or not the iteration has begun."""
        subscription = Subscription(self)
        self._subscriptions.append(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
