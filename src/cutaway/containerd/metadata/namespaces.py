"""Namespaces: names with labels, under which everything else lives.

As in containerd a namespace comes into being with the first object in it, and one that was never
created is simply empty. Only deleting asks whether it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from cutaway.containerd import names
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import Labels, dump, kept, load, masked
from cutaway.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound


def ensure(tx: Transaction, name: str) -> None:
    """Make a namespace that an object is about to live in."""
    tx.execute("INSERT OR IGNORE INTO namespaces VALUES (?, '{}')", (name,))


def create(tx: Transaction, name: str, labels: Mapping[str, str]) -> None:
    """Raises `InvalidArgument`, `AlreadyExists`."""
    names.validate(name)
    names.validate_labels(labels, "namespace.Labels")
    if tx.execute("SELECT 1 FROM namespaces WHERE name = ?", (name,)).fetchone():
        raise AlreadyExists(f'namespace "{name}": already exists')
    tx.execute("INSERT INTO namespaces VALUES (?, ?)", (name, dump(labels)))


def labels(tx: Transaction, name: str) -> Labels:
    """The labels of a namespace; none for one that does not exist, as in containerd."""
    row = tx.execute("SELECT labels FROM namespaces WHERE name = ?", (name,)).fetchone()
    return load(row[0]) if row else {}


def all_of_them(tx: Transaction) -> list[tuple[str, Labels]]:
    return [(name, load(found)) for name, found in tx.execute("SELECT * FROM namespaces ORDER BY name")]


def update(tx: Transaction, name: str, new: Mapping[str, str], paths: list[str]) -> Labels:
    """Change labels: the ones that a field mask names, or without one all of them.

    A namespace that is not there comes into being. Raises `InvalidArgument`, also for a mask of `labels`.
    """
    names.validate_labels(new, "namespace.Labels")
    if wrong := [path for path in paths if not path.startswith("labels.")]:
        raise InvalidArgument(f'cannot update "{wrong[0]}" field')
    if kept(new):
        names.validate(name)
        ensure(tx, name)
    changed, _ = masked(labels(tx, name), new, paths or ["labels"])
    tx.execute("UPDATE namespaces SET labels = ? WHERE name = ?", (dump(changed), name))
    return kept(changed)


def delete(tx: Transaction, name: str) -> None:
    """Raises `FailedPrecondition` for one that still holds something, `NotFound`."""
    if holds := contents(tx, name):
        raise FailedPrecondition(
            f'namespace "{name}" must be empty, but it still has {", ".join(holds)}: failed precondition'
        )
    if not tx.execute("DELETE FROM namespaces WHERE name = ?", (name,)).rowcount:
        raise NotFound(f'namespace "{name}": not found')
    tx.execute("DELETE FROM leases WHERE namespace = ?", (name,))
    tx.execute("DELETE FROM ingests WHERE namespace = ?", (name,))


def contents(tx: Transaction, name: str) -> list[str]:
    """What a namespace holds, in containerd's words."""
    found = [
        table
        for table in ("images", "blobs", "containers")
        if tx.execute(f"SELECT 1 FROM {table} WHERE namespace = ? LIMIT 1", (name,)).fetchone()
    ]
    rows = tx.execute("SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY 1", (name,))
    return found + [f'snapshots on "{snapshotter}" snapshotter' for (snapshotter,) in rows]
