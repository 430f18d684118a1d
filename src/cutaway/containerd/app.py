"""The daemon as one object: what its services share, and the order in which it comes up and goes down."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from cutaway.containerd import mounts
from cutaway.containerd.bus import Bus
from cutaway.containerd.config import Config
from cutaway.containerd.content.files import Files
from cutaway.containerd.content.store import ContentStore
from cutaway.containerd.content.store import repair as repair_content
from cutaway.containerd.gc import Collector
from cutaway.containerd.metadata.database import Database, server_uuid
from cutaway.containerd.snapshots.store import SnapshotStore
from cutaway.containerd.snapshots.store import repair as repair_snapshots
from cutaway.containerd.tasks import create as create_tasks
from cutaway.containerd.transfer.streams import Streams
from cutaway.containerd.workers import Workers

if TYPE_CHECKING:
    from cutaway.containerd.server import Service
    from cutaway.containerd.zygote import Zygote

log = logging.getLogger("containerd")


class Part(Protocol):
    """A part of the daemon with a life of its own."""

    def services(self) -> list[Service]: ...

    async def start(self) -> None:
        """Before the first call is served: adopt what runs."""

    async def stop(self) -> None:
        """After the last call. Shims and their tasks go on."""


class App:
    """Shared things, which belong to the event loop's thread unless their own text says otherwise."""

    def __init__(self, config: Config, zygote: Zygote | None = None) -> None:
        """Open what is on disk and repair what a crash has left. Raises `FailedPrecondition`."""
        self.config = config
        self.zygote = zygote
        self.bus = Bus()
        self.streams = Streams()
        self.db = Database(config.database)
        self.uuid = self.db.write_now(server_uuid)
        self.workers = Workers()
        mounts.clear(config.mounts_root)
        files = Files(config.content_root)
        repair_content(files, self.db)
        self.content = ContentStore(files, self.db, self.workers)
        self.snapshots = SnapshotStore(config.snapshots_root, self.db, self.workers)
        repair_snapshots(config.snapshots_root, self.db)
        self.gc = Collector(self.db, self.content, self.snapshots, self.bus, config.gc)
        self.tasks: Part = create_tasks(self)

    def services(self) -> list[Service]:
        """All gRPC services."""
        from cutaway.containerd.services.containers import Containers
        from cutaway.containerd.services.content import Content
        from cutaway.containerd.services.diff import Diff
        from cutaway.containerd.services.health import Health
        from cutaway.containerd.services.images import Images
        from cutaway.containerd.services.introspection import Introspection
        from cutaway.containerd.services.leases import Leases
        from cutaway.containerd.services.namespaces import Namespaces
        from cutaway.containerd.services.snapshots import Snapshots
        from cutaway.containerd.services.streaming import Streaming
        from cutaway.containerd.services.transfer import Transfer
        from cutaway.containerd.services.version import Version

        own: list[Service] = [
            Version(),
            Health(),
            Introspection(self),
            Namespaces(self),
            Leases(self),
            Content(self),
            Images(self),
            Containers(self),
            Snapshots(self),
            Diff(self),
            Streaming(self),
            Transfer(self),
        ]
        return own + self.tasks.services()

    async def start(self) -> None:
        """What has to run before the first call is served."""
        await self.tasks.start()
        self.gc.start()

    async def stop(self) -> None:
        """After the last call: end what runs and close what is open."""
        self.bus.close()
        await self.tasks.stop()
        await self.gc.stop()
        self.workers.close()
        self.db.close()
