"""containerd.services.introspection.v1.Introspection: what this server is made of.

containerd is built of plugins; clients ask which there are (dockerd: which snapshotters; `ctr plugins ls`).
Ours are fixed, and listed under containerd's names for what they stand in for, in the order in which
containerd starts them. What it has and we have not is missing: the runtimes of shim v1 and metrics for
Prometheus.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from cutaway.containerd.app import App
from cutaway.containerd.filters import Field
from cutaway.containerd.gc_schedule import GcSettings
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import record_filter
from cutaway.pb import introspection_pb2 as pb
from cutaway.pb import platform_pb2

_CONTENT = "io.containerd.content.v1"
_SNAPSHOTTER = "io.containerd.snapshotter.v1"
_METADATA = "io.containerd.metadata.v1"
_DIFFER = "io.containerd.differ.v1"
_EVENT = "io.containerd.event.v1"
_GC = "io.containerd.gc.v1"
_SERVICE = "io.containerd.service.v1"
_RUNTIME = "io.containerd.runtime.v2"
_GRPC = "io.containerd.grpc.v1"
_INTERNAL = "io.containerd.internal.v1"
_STREAMING = "io.containerd.streaming.v1"
_TRANSFER = "io.containerd.transfer.v1"

PLUGINS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (_CONTENT, "content", ()),
    (_SNAPSHOTTER, "native", ()),
    (_SNAPSHOTTER, "overlayfs", ()),
    (_METADATA, "sqlite", (_CONTENT, _SNAPSHOTTER)),
    (_DIFFER, "walking", (_METADATA,)),
    (_EVENT, "exchange", ()),
    (_GC, "scheduler", (_METADATA,)),
    (_SERVICE, "introspection-service", ()),
    (_SERVICE, "containers-service", (_EVENT, _METADATA)),
    (_SERVICE, "content-service", (_EVENT, _METADATA)),
    (_SERVICE, "diff-service", (_DIFFER,)),
    (_SERVICE, "images-service", (_METADATA, _GC)),
    (_SERVICE, "leases-service", (_METADATA,)),
    (_SERVICE, "namespaces-service", (_EVENT, _METADATA)),
    (_SERVICE, "snapshots-service", (_EVENT, _METADATA)),
    (_RUNTIME, "task", (_EVENT, _METADATA)),
    (_SERVICE, "tasks-service", (_EVENT, _RUNTIME, _METADATA)),
    (_STREAMING, "manager", (_METADATA,)),
    (_TRANSFER, "local", (_METADATA, _DIFFER)),
    (_INTERNAL, "opt", ()),
    (_INTERNAL, "restart", (_EVENT, _SERVICE)),
    (_GRPC, "introspection", (_SERVICE,)),
    (_GRPC, "containers", (_SERVICE,)),
    (_GRPC, "content", (_SERVICE,)),
    (_GRPC, "diff", (_SERVICE,)),
    (_GRPC, "events", (_EVENT,)),
    (_GRPC, "healthcheck", ()),
    (_GRPC, "images", (_SERVICE,)),
    (_GRPC, "leases", (_SERVICE,)),
    (_GRPC, "namespaces", (_SERVICE,)),
    (_GRPC, "snapshots", (_SERVICE,)),
    (_GRPC, "streaming", (_STREAMING,)),
    (_GRPC, "tasks", (_SERVICE,)),
    (_GRPC, "transfer", (_TRANSFER, _STREAMING)),
    (_GRPC, "version", ()),
)

_OF_A_PLATFORM = (_SNAPSHOTTER, _DIFFER, _RUNTIME)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Introspection(Service):
    file = pb.DESCRIPTOR
    name = "Introspection"

    def __init__(self, app: App) -> None:
        config = app.config
        self._uuid = app.uuid
        self._exports: dict[tuple[str, str], Mapping[str, str]] = {
            (_CONTENT, "content"): {"root": str(config.content_root)},
            (_SNAPSHOTTER, "overlayfs"): {"root": str(config.snapshots_root)},
            (_METADATA, "sqlite"): {"path": str(config.database), "policy": "shared"},
            (_GC, "scheduler"): _shown(config.gc),
            (_INTERNAL, "opt"): {"path": str(config.opt)},
        }

    async def plugins(self, request: pb.PluginsRequest, _call: Call) -> pb.PluginsResponse:
        wanted = record_filter(request.filters)
        found = [self._plugin(*one) for one in PLUGINS]
        return pb.PluginsResponse(plugins=[one for one in found if wanted.matches(_adapt(one))])

    async def server(self, _request: Empty, _call: Call) -> pb.ServerResponse:
        pid_namespace = os.stat("/proc/self/ns/pid").st_ino
        return pb.ServerResponse(uuid=self._uuid, pid=os.getpid(), pidns=pid_namespace)

    def _plugin(self, kind: str, name: str, requires: Sequence[str]) -> pb.Plugin:
        plugin = pb.Plugin(type=kind, id=name, requires=requires, exports=self._exports.get((kind, name), {}))
        if kind in _OF_A_PLATFORM:
            machine = platform.machine()
            plugin.platforms.append(
                platform_pb2.Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine))
            )
        return plugin


def _shown(settings: GcSettings) -> dict[str, str]:
    return {
        "PauseThreshold": f"{settings.pause_threshold:g}",
        "DeletionThreshold": str(settings.deletion_threshold),
        "MutationThreshold": str(settings.mutation_threshold),
        "ScheduleDelay": f"{settings.schedule_delay:g}s",
    }


def _adapt(plugin: pb.Plugin) -> Field:
    def field(path: Sequence[str]) -> str | None:
        if path[0] == "type":
            return plugin.type or None
        if path[0] == "id":
            return plugin.id or None
        if path[0] == "capabilities" and len(path) > 1:
            return "" if path[1] in plugin.capabilities else None
        return None

    return field
