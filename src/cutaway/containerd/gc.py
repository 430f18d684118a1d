"""Garbage collection: what no image, container, lease or label needs is removed.

Records are judged and removed in one transaction, on the thread that makes all transactions, so nothing
can come to need what is being removed. Files follow: those of blobs when no namespace records them any
more, those of snapshots by ids that are never used again. A crash in between leaves files that no record
names, and the next start removes them.

As in containerd a client protects what it is making by a lease; what is being written at this moment is
never touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from cutaway.containerd.content.store import ContentStore
from cutaway.containerd.metadata import leases, references
from cutaway.containerd.metadata.database import Database, Transaction
from cutaway.containerd.metadata.values import load, now
from cutaway.containerd.snapshots.store import SnapshotStore
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


class Collector:
    """Belongs to the event loop's thread."""

    def __init__(self, db: Database, content: ContentStore, snapshots: SnapshotStore) -> None:
        self._db = db
        self._content = content
        self._snapshots = snapshots
        self._running = asyncio.Lock()

    async def collect(self) -> Collected:
        """Remove what nothing needs, and return when it is gone."""
        async with self._running:
            with spans.span("garbage collection") as span:
                found = await self._db.write_durably(sweep, self._content.is_being_written)
                await self._content.sweep(sorted(found.digests))
                await self._content.drop(found.folders)
                await self._snapshots.sweep(found.snapshots)
                span.set(blobs=len(found.digests), snapshots=len(found.snapshots))
        log.debug("collected %s", found)
        return found


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
    for namespace, id, labels in tx.execute("SELECT namespace, id, labels FROM leases").fetchall():
        if references.has_expired(load(labels), id, time):
            tx.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (namespace, id))
            found.leases.append(id)
    return found
