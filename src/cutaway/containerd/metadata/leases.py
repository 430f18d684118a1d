"""Leases: what they list is not collected, until they are deleted or expire.

A call made under a lease (metadata `containerd-lease`) adds what it makes to that lease by itself.
A lease whose label `containerd.io/gc.expire` lies in the past protects nothing any more.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cutaway.containerd import filters, names
from cutaway.containerd.metadata import namespaces
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import Labels, dump, kept, load, now
from cutaway.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented

CONTENT = "content"
INGESTS = "ingests"
SNAPSHOTS = "snapshots"  # followed by /<snapshotter>


@dataclass(frozen=True, slots=True)
class Lease:
    id: str
    labels: Labels
    created: int

    def lookup(self, path: Sequence[str]) -> str | None:
        """For filters."""
        if path[0] == "id":
            return self.id or None
        return filters.in_map(path[1:], self.labels) if path[0] == "labels" else None


@dataclass(frozen=True, slots=True)
class Resource:
    type: str
    id: str


def random_id() -> str:
    """As containerd's clients make one: the time and a bit of chance."""
    return f"{time.time_ns() % 1_000_000_000}-{base64.urlsafe_b64encode(os.urandom(3)).decode()}"


def create(tx: Transaction, namespace: str, id: str, labels: Mapping[str, str]) -> Lease:
    """Labels may have any size, as in containerd. Raises `Unknown`, `AlreadyExists`."""
    names.require_keys(labels)
    if tx.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, id)).fetchone():
        raise AlreadyExists(f'lease "{id}": already exists')
    namespaces.ensure(tx, namespace)
    lease = Lease(id, kept(labels), now())
    tx.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (namespace, id, dump(labels), lease.created))
    return lease


def delete(tx: Transaction, namespace: str, id: str) -> None:
    """Raises `NotFound`."""
    if not tx.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (namespace, id)).rowcount:
        raise NotFound(f'lease "{id}": not found')


def find(tx: Transaction, namespace: str, wanted: filters.Filter) -> list[Lease]:
    rows = tx.execute("SELECT id, labels, created FROM leases WHERE namespace = ? ORDER BY id", (namespace,))
    found = [Lease(id, load(labels), created) for id, labels, created in rows]
    return [lease for lease in found if wanted.matches(lease.lookup)]


def add(tx: Transaction, namespace: str, id: str, resource: Resource) -> None:
    """Raises `NotFound`, `InvalidArgument`, `Unimplemented`."""
    _require(tx, namespace, id)
    _validate(resource)
    _add(tx, namespace, id, resource)


def remove(tx: Transaction, namespace: str, id: str, resource: Resource) -> None:
    """Raises `NotFound` for the lease; a resource that it does not list is no error."""
    _require(tx, namespace, id)
    _validate(resource)
    release(tx, namespace, id, resource.type, resource.id)


def resources(tx: Transaction, namespace: str, id: str) -> list[Resource]:
    """Raises `NotFound`."""
    _require(tx, namespace, id)
    rows = tx.execute(
        "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, id",
        (namespace, id),
    )
    return [Resource(kind, name) for kind, name in rows]


def hold(tx: Transaction, namespace: str, id: str, kind: str, name: str) -> None:
    """Add what a call made to the call's lease; nothing without one. Raises `NotFound`."""
    if not id:
        return
    if not tx.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, id)).fetchone():
        raise NotFound("lease does not exist: not found")
    _add(tx, namespace, id, Resource(kind, name))


def release(tx: Transaction, namespace: str, id: str, kind: str, name: str) -> None:
    """Take what a call removed from the call's lease."""
    if id:
        tx.execute(
            "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
            (namespace, id, kind, name),
        )


def _add(tx: Transaction, namespace: str, id: str, resource: Resource) -> None:
    tx.execute(
        "INSERT OR IGNORE INTO lease_resources VALUES (?, ?, ?, ?)",
        (namespace, id, resource.type, resource.id),
    )


def _require(tx: Transaction, namespace: str, id: str) -> None:
    if not tx.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, id)).fetchone():
        raise NotFound(f'lease "{id}": not found')


def _validate(resource: Resource) -> None:
    kind, *rest = resource.type.split("/")
    if kind not in (CONTENT, INGESTS, SNAPSHOTS):
        raise Unimplemented(f"resource type {kind} not supported yet: not implemented")
    if len(rest) != (kind == SNAPSHOTS) or "" in rest:
        what = "snapshot resource" if kind == SNAPSHOTS else "resource"
        raise InvalidArgument(f"invalid {what} type {resource.type}: invalid argument")
    if kind == CONTENT and (problem := names.digest_problem(resource.id)):
        raise InvalidArgument(f"invalid content resource id {resource.id}: {problem}: invalid argument")
