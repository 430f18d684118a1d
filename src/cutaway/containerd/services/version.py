"""containerd.services.version.v1.Version."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from cutaway import __version__
from cutaway.containerd.server import Call, Service
from cutaway.pb import version_pb2 as pb

# Clients compare this with releases of containerd to learn what a server can do: the API is that of 1.6.
API_VERSION = "1.6.20"


class Version(Service):
    file = pb.DESCRIPTOR
    name = "Version"

    async def version(self, _request: Empty, _call: Call) -> pb.VersionResponse:
        return pb.VersionResponse(version=f"{API_VERSION}+cutaway", revision=f"cutaway-{__version__}")
