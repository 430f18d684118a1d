"""Snapshots as records: a tree of committed layers with active and view snapshots as leaves.

    prepare ──> ACTIVE ──commit──> COMMITTED ──> parent of others
    view ─────> VIEW

A snapshot without a parent starts from nothing. Only a committed one can be a parent, and only one
without children can be removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from cutaway.containerd import filters, names
from cutaway.containerd.metadata import leases, namespaces
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import Labels, dump, kept, load, masked, now
from cutaway.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

# Of a snapshot to prepare: the name of the committed one that it is going to become.
LABEL_TARGET = "containerd.io/snapshot.ref"


class Kind(IntEnum):
    """Numbers as in containerd.services.snapshots.v1.Kind."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Space:
    """Where a snapshot's name means something."""

    namespace: str
    snapshotter: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: int
    """Name of its directory, never used twice."""
    name: str
    parent: str
    kind: Kind
    labels: Labels
    size: int
    inodes: int
    created: int
    updated: int

    def lookup(self, path: Sequence[str]) -> str | None:
        """For filters."""
        match path[0], *path[1:]:
            case ["kind"]:
                return self.kind.name.lower()
            case ["name"]:
                return self.name
            case ["parent"]:
                return self.parent
            case ["labels", *rest]:
                return filters.in_map(rest, self.labels)
        return None


def get(tx: Transaction, space: Space, name: str) -> Snapshot:
    """Raises `NotFound`."""
    found = _get(tx, space, name)
    if not found:
        raise NotFound(f"snapshot {name} does not exist: not found")
    return found


def find(tx: Transaction, space: Space, wanted: filters.Filter) -> list[Snapshot]:
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM snapshots WHERE snapshotter = ? AND namespace = ? ORDER BY name",
        (space.snapshotter, space.namespace),
    )
    return [one for one in map(_snapshot, rows) if wanted.matches(one.lookup)]


def parents(tx: Transaction, space: Space, snapshot: Snapshot) -> list[int]:
    """The ids below a snapshot, nearest first. Raises `NotFound` for a broken chain."""
    found, name = [], snapshot.parent
    while name:
        parent = get(tx, space, name)
        found.append(parent.id)
        name = parent.parent
    return found


def create(
    tx: Transaction, space: Space, name: str, parent: str, kind: Kind, labels: Mapping[str, str], lease: str
) -> Snapshot:
    """Record an active snapshot or a view. Raises `AlreadyExists`, `NotFound`, `InvalidArgument`."""
    names.validate_labels(labels, "info.Labels")
    target = labels.get(LABEL_TARGET, "")
    if target and _get(tx, space, target):
        raise AlreadyExists(f'target snapshot "{target}": already exists')
    if not name:
        raise InvalidArgument("snapshot key must not be empty: invalid argument")
    if _get(tx, space, name):
        raise AlreadyExists(f'snapshot "{name}": already exists')
    if parent:
        below = _get(tx, space, parent)
        if not below:
            raise NotFound(f"parent snapshot {parent} does not exist: not found")
        if below.kind is not Kind.COMMITTED:
            raise InvalidArgument(
                f'failed to create snapshot: parent "{parent}" is not committed snapshot: invalid argument'
            )
    namespaces.ensure(tx, space.namespace)
    leases.hold(tx, space.namespace, lease, f"{leases.SNAPSHOTS}/{space.snapshotter}", name)
    created = now()
    tx.execute(
        "INSERT INTO snapshots (snapshotter, namespace, name, parent, kind, labels, size, inodes, created, "
        "updated) VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, ?)",
        (space.snapshotter, space.namespace, name, parent, int(kind), dump(labels), created, created),
    )
    return get(tx, space, name)


def to_commit(tx: Transaction, space: Space, key: str, name: str) -> Snapshot:
    """The snapshot that is to be committed under a name, which must be free.

    Raises `InvalidArgument`, `AlreadyExists`, `NotFound`.
    """
    if not name:
        raise InvalidArgument("snapshot name must not be empty: invalid argument")
    if _get(tx, space, name):
        raise AlreadyExists(f'snapshot "{name}": already exists')
    return get(tx, space, key)


def commit(
    tx: Transaction,
    space: Space,
    key: str,
    name: str,
    used: tuple[int, int],
    labels: Mapping[str, str],
    lease: str,
) -> None:
    """Make an active snapshot a committed one under another name.

    `used` is bytes and inodes. Raises `InvalidArgument`, `NotFound`, `AlreadyExists`, `FailedPrecondition`.
    """
    names.validate_labels(labels, "info.Labels")
    active = to_commit(tx, space, key, name)
    if active.kind is not Kind.ACTIVE:
        raise FailedPrecondition(
            f'failed to commit snapshot: snapshot "{key}" is not active: failed precondition'
        )
    kind = f"{leases.SNAPSHOTS}/{space.snapshotter}"
    leases.hold(tx, space.namespace, lease, kind, name)
    leases.release(tx, space.namespace, lease, kind, key)
    done = now()
    tx.execute(
        "UPDATE snapshots SET name = ?, kind = ?, labels = ?, size = ?, inodes = ?, created = ?, updated = ? "
        "WHERE id = ?",
        (name, int(Kind.COMMITTED), dump(labels), *used, done, done, active.id),
    )


def update(
    tx: Transaction, space: Space, name: str, labels: Mapping[str, str], paths: Sequence[str]
) -> Snapshot:
    """Change labels: what a field mask names, or without one all. Raises `NotFound`, `InvalidArgument`."""
    if not name:
        raise InvalidArgument("snapshot name must not be empty: invalid argument")
    old = get(tx, space, name)
    changed, others = masked(old.labels, labels, paths or ["labels"])
    if others:
        raise InvalidArgument(f'cannot update "{others[0]}" field on snapshot "{name}": invalid argument')
    names.validate_labels(changed, "info.Labels")
    updated = now()
    tx.execute("UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?", (dump(changed), updated, old.id))
    return replace(old, labels=kept(changed), updated=updated)


def remove(tx: Transaction, space: Space, name: str, lease: str) -> int:
    """Forget a snapshot; returns the id whose directory is now nobody's.

    Raises `NotFound`, `FailedPrecondition` while others stand on it.
    """
    found = get(tx, space, name)
    child = tx.execute(
        "SELECT 1 FROM snapshots WHERE snapshotter = ? AND namespace = ? AND parent = ? LIMIT 1",
        (space.snapshotter, space.namespace, name),
    )
    if child.fetchone():
        raise FailedPrecondition("cannot remove snapshot with child: failed precondition")
    tx.execute("DELETE FROM snapshots WHERE id = ?", (found.id,))
    leases.release(tx, space.namespace, lease, f"{leases.SNAPSHOTS}/{space.snapshotter}", name)
    return found.id


def ids(tx: Transaction) -> set[int]:
    """All directories that belong to a snapshot."""
    return {row[0] for row in tx.execute("SELECT id FROM snapshots")}


_COLUMNS = "id, name, parent, kind, labels, size, inodes, created, updated"


def _get(tx: Transaction, space: Space, name: str) -> Snapshot | None:
    row = tx.execute(
        f"SELECT {_COLUMNS} FROM snapshots WHERE snapshotter = ? AND namespace = ? AND name = ?",
        (space.snapshotter, space.namespace, name),
    ).fetchone()
    return _snapshot(row) if row else None


def _snapshot(row: tuple[Any, ...]) -> Snapshot:
    id, name, parent, kind, labels, size, inodes, created, updated = row
    return Snapshot(id, name, parent, Kind(kind), load(labels), size, inodes, created, updated)
