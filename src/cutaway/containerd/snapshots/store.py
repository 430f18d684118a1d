"""The snapshot store: records and directories together.

A directory is made before the record that names it takes effect, and removed after the record has gone:
a crash leaves at most a directory that nothing names, which `repair` removes at the next start.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cutaway.containerd import filters
from cutaway.containerd.metadata import snapshots
from cutaway.containerd.metadata.database import Database, Transaction
from cutaway.containerd.metadata.snapshots import Kind, Snapshot, Space
from cutaway.containerd.mounts import Mount
from cutaway.containerd.snapshots import trees
from cutaway.containerd.snapshots.snapshotters import Native, Overlay, Snapshotter
from cutaway.containerd.workers import Workers
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound
from cutaway.faults import point

log = logging.getLogger("containerd.snapshots")

# Directories that are being filled, beside those that are named by ids.
_STAGED = "new-"


class SnapshotStore:
    """Belongs to the event loop's thread."""

    def __init__(self, root: Path, db: Database, workers: Workers) -> None:
        self.root = root
        root.mkdir(exist_ok=True, mode=0o700)
        self._db = db
        self._workers = workers
        self._known: dict[str, Snapshotter] = {one.name: one for one in (Overlay(root), Native(root))}

    def _snapshotter(self, name: str) -> Snapshotter:
        if not name:
            raise InvalidArgument("snapshotter argument missing: invalid argument")
        if name not in self._known:
            raise InvalidArgument(f"snapshotter not loaded: {name}: invalid argument")
        return self._known[name]

    async def create(
        self, space: Space, name: str, parent: str, kind: Kind, labels: Mapping[str, str], lease: str
    ) -> list[Mount]:
        """Prepare an active snapshot or a view; returns its mounts.

        Raises `AlreadyExists`, `NotFound`, `InvalidArgument`.
        """
        snapshotter = self._snapshotter(space.snapshotter)
        staged = await self._stage(space, parent, kind) if parent and snapshotter.copies else None
        try:
            made, parents = await self._db.write(
                self._create, space, name, parent, kind, labels, lease, staged
            )
        except sqlite3.Error:
            # Its directory was made, its record not, for want of room as a rule.
            await self._remove_unnamed()
            raise
        finally:
            if staged:
                await self._workers.run(trees.remove, staged)
        return snapshotter.mounts(made.id, kind, parents)

    async def _stage(self, space: Space, parent: str, kind: Kind) -> Path:
        """Make a directory that takes long before the transaction that wants it."""
        try:
            found = self._db.look_up(snapshots.get, space, parent)
        except NotFound:
            raise NotFound(f"parent snapshot {parent} does not exist: not found") from None
        staged = self.root / f"{_STAGED}{uuid.uuid4()}"
        try:
            await self._workers.finish(self._known[space.snapshotter].make, staged, kind, [found.id])
            point("containerd.snapshots.staged")
        except BaseException:
            await self._workers.run(trees.remove, staged)
            raise
        return staged

    def _create(
        self,
        tx: Transaction,
        space: Space,
        name: str,
        parent: str,
        kind: Kind,
        labels: Mapping[str, str],
        lease: str,
        staged: Path | None,
    ) -> tuple[Snapshot, list[int]]:
        made = snapshots.create(tx, space, name, parent, kind, labels, lease)
        parents = snapshots.parents(tx, space, made)
        folder = self.root / str(made.id)
        # A transaction that could not be committed has left its directory, and its id is free again.
        trees.remove(folder)
        point("containerd.snapshots.before-directory")
        try:
            if staged:
                os.rename(staged, folder)
            else:
                self._known[space.snapshotter].make(folder, kind, parents)
            point("containerd.snapshots.directory-made")
        except BaseException:
            trees.remove(folder)
            raise
        return made, parents

    async def mounts(self, space: Space, name: str) -> list[Mount]:
        """Raises `NotFound`, `FailedPrecondition` for a committed snapshot."""
        snapshotter = self._snapshotter(space.snapshotter)
        found, parents = self._db.look_up(_with_parents, space, name)
        if found.kind is Kind.COMMITTED:
            raise FailedPrecondition(
                f"failed to get active mount: requested snapshot {name} not active or view: "
                "failed precondition"
            )
        return snapshotter.mounts(found.id, found.kind, parents)

    async def commit(self, space: Space, key: str, name: str, labels: Mapping[str, str], lease: str) -> None:
        """Raises `NotFound`, `AlreadyExists`, `FailedPrecondition`."""
        self._snapshotter(space.snapshotter)
        active = self._db.look_up(snapshots.to_commit, space, key, name)
        used = await self._workers.run(trees.usage, self._fs(active.id))
        point("containerd.snapshots.measured")
        await self._db.write(snapshots.commit, space, key, name, used, labels, lease)

    async def remove(self, space: Space, name: str, lease: str) -> None:
        """Raises `NotFound`, `FailedPrecondition` while others stand on it."""
        self._snapshotter(space.snapshotter)
        id = await self._db.release(snapshots.remove, space, name, lease)
        await self.sweep([id])

    async def sweep(self, ids: Iterable[int]) -> None:
        """Remove the directories of snapshots that are recorded no more."""
        for id in ids:
            try:
                point("containerd.snapshots.before-removal")
                await self._workers.run(trees.remove, self.root / str(id))
                point("containerd.snapshots.removed")
            except OSError as error:
                # The record has gone, so the caller's wish is fulfilled; the next start tries again.
                log.warning("directory of snapshot %d stays for now: %s", id, error)

    async def stat(self, space: Space, name: str) -> Snapshot:
        """Raises `NotFound`."""
        self._snapshotter(space.snapshotter)
        return self._db.look_up(snapshots.get, space, name)

    async def find(self, space: Space, wanted: filters.Filter) -> list[Snapshot]:
        self._snapshotter(space.snapshotter)
        return await self._db.read(snapshots.find, space, wanted)

    async def update(
        self, space: Space, name: str, labels: Mapping[str, str], paths: Sequence[str]
    ) -> Snapshot:
        """Raises `NotFound`, `InvalidArgument`."""
        self._snapshotter(space.snapshotter)
        return await self._db.write(snapshots.update, space, name, labels, paths)

    async def usage(self, space: Space, name: str) -> tuple[int, int]:
        """Bytes and inodes: measured now for an active snapshot, when it was committed for another."""
        found = await self.stat(space, name)
        if found.kind is Kind.ACTIVE:
            return await self._workers.run(trees.usage, self._fs(found.id))
        return found.size, found.inodes

    async def cleanup(self, snapshotter: str) -> None:
        """Remove directories that nothing names."""
        self._snapshotter(snapshotter)
        await self._remove_unnamed()

    async def _remove_unnamed(self) -> None:
        # On the writing thread no snapshot is being made meanwhile; later, its id may be given again.
        for folder in await self._db.release(_set_aside, self.root):
            await self._workers.run(trees.remove, folder)

    def _fs(self, id: int) -> Path:
        return self.root / str(id) / "fs"


def _with_parents(tx: Transaction, space: Space, name: str) -> tuple[Snapshot, list[int]]:
    found = snapshots.get(tx, space, name)
    return found, snapshots.parents(tx, space, found)


def _unnamed(tx: Transaction, root: Path) -> list[int]:
    kept = snapshots.ids(tx)
    return [int(one.name) for one in root.iterdir() if one.name.isdecimal() and int(one.name) not in kept]


def _set_aside(tx: Transaction, root: Path) -> list[Path]:
    """Move directories that nothing names to names that are nobody's."""
    moved = []
    for id in _unnamed(tx, root):
        moved.append(root / f"{_STAGED}{uuid.uuid4()}")
        os.rename(root / str(id), moved[-1])
    return moved


def repair(root: Path, db: Database) -> None:
    """After a crash: no record without its directory, no directory without its record."""
    lost = [id for id in db.read_now(snapshots.ids) if not (root / str(id) / "fs").is_dir()]
    if lost:
        log.warning("directories are missing, the snapshots are removed: %s", lost)
        db.write_now(_forget, lost)
    for staged in root.glob(f"{_STAGED}*"):
        trees.remove(staged)
    for id in db.read_now(_unnamed, root):
        log.info("removing the directory of snapshot %d, which nothing records", id)
        trees.remove(root / str(id))


def _forget(tx: Transaction, ids: Sequence[int]) -> None:
    """Remove snapshots, and all that stand on them, from the records."""
    doomed = list(ids)
    while doomed:
        id = doomed.pop()
        row = tx.execute("SELECT snapshotter, namespace, name FROM snapshots WHERE id = ?", (id,)).fetchone()
        if row:
            children = tx.execute(
                "SELECT id FROM snapshots WHERE snapshotter = ? AND namespace = ? AND parent = ?", row
            )
            doomed += [child for (child,) in children]
            tx.execute("DELETE FROM snapshots WHERE id = ?", (id,))
