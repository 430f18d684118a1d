"""grpc.health.v1.Health: dockerd asks it whether the daemon is up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cutaway.containerd.server import Call, Service
from cutaway.errors import NotFound
from cutaway.pb import health_pb2 as pb


class Health(Service):
    """The daemon as a whole serves as soon as it answers."""

    file = pb.DESCRIPTOR
    name = "Health"

    async def check(self, request: pb.HealthCheckRequest, _call: Call) -> pb.HealthCheckResponse:
        if request.service:
            raise NotFound("unknown service")
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)

    async def list(self, _request: pb.HealthListRequest, _call: Call) -> pb.HealthListResponse:
        return pb.HealthListResponse(
            statuses={"": pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)}
        )

    async def watch(
        self, _request: pb.HealthCheckRequest, _call: Call
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        yield pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
        # Nothing changes until the server goes down, and that ends the stream.
        await asyncio.Event().wait()
