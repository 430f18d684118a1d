"""Garbage collection: what no image, container, lease or label needs is removed.

Records are judged and removed in one transaction, on the thread that makes all transactions, so nothing
can come to need what is being removed. Files follow: those of blobs when no namespace records them any
more, those of snapshots by ids that are never used again. A crash in between leaves files that no record
names, and the next start removes them.

As in containerd a client protects what it is making by a lease; what is being written at this moment is
never touched. It happens when a client asks, and in the background by the rules of `gc_schedule`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from cutaway.containerd.bus import Bus
from cutaway.containerd.content.store import ContentStore
from cutaway.containerd.gc_schedule import GcSchedule, GcSettings
from cutaway.containerd.metadata import leases, references
from cutaway.containerd.metadata.database import Database, Transaction
from cutaway.containerd.metadata.values import load, now
from cutaway.containerd.snapshots.store import SnapshotStore
from cutaway.errors import CutawayError
from cutaway.faults import point
from cutaway.pb.image_events_pb2 import ImageDelete
from cutaway.trace import spans

log = logging.getLogger("containerd.gc")


@dataclass
class Collected:
    """What a collection has removed from the records."""

    digests: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    """Of ingests."""
    snapshots: list[int] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)
    """Namespace and name of those whose time had come."""


class Collector:
    """Belongs to the event loop's thread."""

    def __init__(
        self, db: Database, content: ContentStore, snapshots: SnapshotStore, bus: Bus, settings: GcSettings
    ) -> None:
        self._db = db
        self._bus = bus
        self._content = content
        self._snapshots = snapshots
        self._running = asyncio.Lock()
        self._schedule = GcSchedule(settings, monotonic())
        self._changed = asyncio.Event()
        self._background: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to collect in the background, on the running event loop."""
        self._db.on_change = self._mutated
        self._background = asyncio.create_task(self._collect_when_due())

    async def stop(self) -> None:
        """Collect no more; a collection that runs comes to its end."""
        if self._background:
            self._background.cancel()
            async with self._running:
                await asyncio.wait([self._background])

    def released(self) -> None:
        """Say that something has been deleted which may have kept other things alive."""
        self._schedule.deleted(monotonic())
        self._changed.set()

    async def collect(self) -> Collected:
        """Remove what nothing needs, and return when it is gone."""
        with spans.span("garbage collection") as span:
            found = await self._collect()
            span.set(blobs=len(found.digests), snapshots=len(found.snapshots))
        return found

    async def _collect(self) -> Collected:
        async with self._running:
            begun = monotonic()
            self._schedule.began()
            try:
                found = await self._db.write_durably(sweep, self._content.is_being_written)
                point("containerd.gc.judged")
                await self._content.sweep(sorted(found.digests))
                point("containerd.gc.blobs-removed")
                await self._content.drop(found.folders)
                point("containerd.gc.ingests-removed")
                await self._snapshots.sweep(found.snapshots)
                for namespace, name in found.images:
                    self._bus.publish(namespace, "/images/delete", ImageDelete(name=name))
            except BaseException:
                self._schedule.failed(monotonic())
                raise
            self._schedule.collected(now := monotonic(), now - begun)
        log.debug("collected %s", found)
        return found

    def _mutated(self) -> None:
        self._schedule.mutated(monotonic())
        self._changed.set()

    async def _collect_when_due(self) -> None:
        while True:
            self._changed.clear()
            if self._schedule.due(monotonic()):
                await self._collect_in_background()
            planned = self._schedule.planned
            wait = None if planned is None else max(0.0, planned - monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)

    async def _collect_in_background(self) -> None:
        try:
            # Shielded, so that a daemon told to stop does not leave between records and files.
            await asyncio.shield(self._collect())
        except (CutawayError, OSError, sqlite3.Error) as error:
            # A full disk, say. The schedule tries again, and a client's own request says it to the client.
            log.error("garbage collection failed, to be tried again: %s", error)


def sweep(tx: Transaction, is_being_written: Callable[[str, str], bool]) -> Collected:
    """Remove the records of all that is not reachable."""
    time = now()
    alive = references.reachable(tx, time)
    found = Collected()
    for namespace, digest in tx.execute("SELECT namespace, digest FROM blobs").fetchall():
        if (leases.CONTENT, namespace, digest) not in alive:
            tx.execute("DELETE FROM blobs WHERE namespace = ? AND digest = ?", (namespace, digest))
            found.digests.add(digest)
    for namespace, ref, folder, shared in tx.execute(
        "SELECT namespace, ref, folder, shared FROM ingests"
    ).fetchall():
        if (leases.INGESTS, namespace, ref) not in alive and not is_being_written(namespace, ref):
            tx.execute("DELETE FROM ingests WHERE folder = ?", (folder,))
            found.folders.append(folder)
            found.digests.update([shared] if shared else [])
    for id, kind, namespace, name in tx.execute(
        "SELECT id, 'snapshots/' || snapshotter, namespace, name FROM snapshots"
    ).fetchall():
        if (kind, namespace, name) not in alive:
            tx.execute("DELETE FROM snapshots WHERE id = ?", (id,))
            found.snapshots.append(id)
    living = references.living_images(tx, time)
    for namespace, name in tx.execute("SELECT namespace, name FROM images").fetchall():
        if (namespace, name) not in living:
            tx.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (namespace, name))
            found.images.append((namespace, name))
    for namespace, id, labels in tx.execute("SELECT namespace, id, labels FROM leases").fetchall():
        if references.has_expired(load(labels), id, time):
            tx.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (namespace, id))
            found.leases.append(id)
    return found
