"""containerd.services.introspection.v1.Introspection: what this server is made of.

containerd is built of plugins; clients ask which there are (dockerd: which snapshotters). Ours are
fixed, and listed under containerd's names for what they stand in for.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd import filters
from cutaway.containerd.app import App
from cutaway.containerd.server import Call, Service
from cutaway.pb import introspection_pb2 as pb
from cutaway.pb import platform_pb2

_GRPC = ("containers", "content", "diff", "events", "healthcheck", "images", "introspection", "leases",
         "namespaces", "snapshots", "tasks", "version")  # fmt: skip

PLUGINS: tuple[tuple[str, str], ...] = (
    ("io.containerd.content.v1", "content"),
    ("io.containerd.snapshotter.v1", "native"),
    ("io.containerd.snapshotter.v1", "overlayfs"),
    ("io.containerd.metadata.v1", "sqlite"),
    ("io.containerd.differ.v1", "walking"),
    ("io.containerd.gc.v1", "scheduler"),
    ("io.containerd.runtime.v2", "task"),
    *(("io.containerd.grpc.v1", name) for name in _GRPC),
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Introspection(Service):
    file = pb.DESCRIPTOR
    name = "Introspection"

    def __init__(self, app: App) -> None:
        self._app = app

    async def plugins(self, request: pb.PluginsRequest, _call: Call) -> pb.PluginsResponse:
        wanted = filters.parse_all(request.filters)
        found = [self._plugin(kind, name) for kind, name in PLUGINS]
        return pb.PluginsResponse(plugins=[one for one in found if wanted.matches(_adapt(one))])

    async def server(self, _request: Empty, _call: Call) -> pb.ServerResponse:
        pid_namespace = os.stat("/proc/self/ns/pid").st_ino
        return pb.ServerResponse(uuid=self._app.uuid, pid=os.getpid(), pidns=pid_namespace)

    def _plugin(self, kind: str, name: str) -> pb.Plugin:
        plugin = pb.Plugin(type=kind, id=name)
        if kind in ("io.containerd.snapshotter.v1", "io.containerd.differ.v1", "io.containerd.runtime.v2"):
            machine = platform.machine()
            plugin.platforms.append(
                platform_pb2.Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine))
            )
        root = {"io.containerd.content.v1": self._app.config.content_root,
                "io.containerd.snapshotter.v1": self._app.config.snapshots_root,
                "io.containerd.metadata.v1": self._app.config.root}.get(kind)  # fmt: skip
        if root:
            plugin.exports["root"] = str(root)
        return plugin


def _adapt(plugin: pb.Plugin) -> filters.Field:
    def field(path: Sequence[str]) -> str | None:
        if path[0] == "type":
            return plugin.type or None
        if path[0] == "id":
            return plugin.id or None
        if path[0] == "capabilities" and len(path) > 1:
            return "" if path[1] in plugin.capabilities else None
        return None

    return field
