"""The ttrpc socket on which shims hand in their events (TTRPC_ADDRESS in their environment)."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.bus import Bus
from cutaway.containerd.services.events import event_of
from cutaway.containerd.tasks.missed import MissedExits
from cutaway.containerd.ttrpc.server import Server
from cutaway.faults import point
from cutaway.pb import events_ttrpc_pb2
from cutaway.pb.service import methods


class ShimEvents:
    """`containerd.services.events.ttrpc.v1.Events`."""

    def __init__(self, bus: Bus, missed: MissedExits, address: str) -> None:
        self._bus = bus
        self._missed = missed
        self._server = Server(address)
        self._server.add(methods(events_ttrpc_pb2.DESCRIPTOR, "Events")["Forward"], self._forward)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    async def _forward(self, request: events_ttrpc_pb2.ForwardRequest, _: Mapping[str, str]) -> Empty:
        event = event_of(request.envelope)
        point("containerd.events.received")
        self._missed.note(event)
        self._bus.forward(event)
        point("containerd.events.before-reply")
        return Empty()
