"""Content as a namespace sees it: which blobs it has, with their labels, and which are being written.

The bytes are shared by all namespaces (`content.files`); a row here makes them visible in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cutaway.containerd import filters, names
from cutaway.containerd.metadata import leases, namespaces
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import Labels, dump, kept, load, masked, now
from cutaway.errors import InvalidArgument, NotFound

# An ingest that no lease holds may be collected after this long, as in containerd.
INGEST_LIFETIME_NS = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Blob:
    digest: str
    size: int
    labels: Labels
    created: int
    updated: int

    def lookup(self, path: Sequence[str]) -> str | None:
        """For filters."""
        match path[0], *path[1:]:
            case ["digest"]:
                return self.digest
            case ["labels", *rest]:
                return filters.in_map(rest, self.labels)
        return None


@dataclass(frozen=True, slots=True)
class Ingest:
    """A blob being written."""

    namespace: str
    ref: str
    folder: str
    """Name of its directory."""
    total: int
    """How many bytes the client says there will be; 0 for unknown."""
    shared: str
    """The digest, when another namespace has the blob already and nothing needs to be sent."""
    started: int
    updated: int


def get(tx: Transaction, namespace: str, digest: str) -> Blob:
    """Raises `NotFound`."""
    row = tx.execute(
        f"SELECT {_COLUMNS} FROM blobs WHERE namespace = ? AND digest = ?", (namespace, digest)
    ).fetchone()
    if not row:
        raise NotFound(f"content digest {digest}: not found")
    return _blob(row)


def has(tx: Transaction, namespace: str, digest: str) -> bool:
    found = tx.execute(
        "SELECT 1 FROM blobs WHERE namespace = ? AND digest = ?", (namespace, digest)
    ).fetchone()
    return found is not None


def size_anywhere(tx: Transaction, digest: str) -> int | None:
    """The size of a blob that some namespace has."""
    row = tx.execute("SELECT size FROM blobs WHERE digest = ? LIMIT 1", (digest,)).fetchone()
    return row[0] if row else None


def find(tx: Transaction, namespace: str, wanted: filters.Filter) -> list[Blob]:
    rows = tx.execute(f"SELECT {_COLUMNS} FROM blobs WHERE namespace = ? ORDER BY digest", (namespace,))
    return [blob for blob in map(_blob, rows) if wanted.matches(blob.lookup)]


def update(
    tx: Transaction, namespace: str, digest: str, labels: Mapping[str, str], paths: Sequence[str]
) -> Blob:
    """Change labels: what a field mask names, or without one all. Raises `NotFound`, `InvalidArgument`."""
    old = get(tx, namespace, digest)
    changed, others = masked(old.labels, labels, paths or ["labels"])
    if others:
        raise InvalidArgument(
            f'cannot update "{others[0]}" field on content info "{digest}": invalid argument'
        )
    names.validate_labels(changed, "info.Labels")
    blob = replace(old, labels=kept(changed), updated=now())
    tx.execute(
        "UPDATE blobs SET labels = ?, updated = ? WHERE namespace = ? AND digest = ?",
        (dump(changed), blob.updated, namespace, digest),
    )
    return blob


def add(tx: Transaction, namespace: str, digest: str, size: int, labels: Mapping[str, str]) -> Blob:
    """Make a blob visible in a namespace that does not have it."""
    namespaces.ensure(tx, namespace)
    created = now()
    tx.execute(
        "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)",
        (namespace, digest, size, dump(labels), created, created),
    )
    return Blob(digest, size, kept(labels), created, created)


def delete(tx: Transaction, namespace: str, digest: str, lease: str) -> None:
    """Take a blob out of a namespace. Raises `NotFound`."""
    if not tx.execute("DELETE FROM blobs WHERE namespace = ? AND digest = ?", (namespace, digest)).rowcount:
        raise NotFound(f"content digest {digest}: not found")
    leases.release(tx, namespace, lease, leases.CONTENT, digest)


def is_used(tx: Transaction, digest: str) -> bool:
    """Whether any namespace has a blob, or counts on it to be there."""
    rows = tx.execute(
        "SELECT 1 FROM blobs WHERE digest = ? UNION ALL SELECT 1 FROM ingests WHERE shared = ? LIMIT 1",
        (digest, digest),
    )
    return rows.fetchone() is not None


def ingest(tx: Transaction, namespace: str, ref: str) -> Ingest:
    """Raises `NotFound`."""
    row = tx.execute(
        f"SELECT {_INGEST} FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref)
    ).fetchone()
    if not row:
        raise NotFound(f"reference {ref}: not found")
    return Ingest(*row)


def is_begun(tx: Transaction, namespace: str, ref: str) -> bool:
    """Whether there is an ingest."""
    found = tx.execute("SELECT 1 FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref))
    return found.fetchone() is not None


def total(tx: Transaction, namespace: str, ref: str) -> int:
    """How many bytes an ingest was said to have; 0 when it was not said, or there is none."""
    row = tx.execute("SELECT total FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref)).fetchone()
    return row[0] if row else 0


def ingests(tx: Transaction, namespace: str) -> list[Ingest]:
    rows = tx.execute(f"SELECT {_INGEST} FROM ingests WHERE namespace = ? ORDER BY ref", (namespace,))
    return [Ingest(*row) for row in rows]


def begin(tx: Transaction, wanted: Ingest, lease: str) -> Ingest:
    """Record an ingest, or return the one that has begun before. Raises `NotFound` for the lease."""
    namespaces.ensure(tx, wanted.namespace)
    leases.hold(tx, wanted.namespace, lease, leases.INGESTS, wanted.ref)
    expires = 0 if lease else wanted.started + INGEST_LIFETIME_NS
    tx.execute(
        "INSERT INTO ingests (namespace, ref, folder, total, shared, started, updated, expires) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET shared = excluded.shared, expires = excluded.expires, "
        "total = CASE WHEN excluded.shared = '' THEN total ELSE excluded.total END",
        (wanted.namespace, wanted.ref, wanted.folder, wanted.total, wanted.shared, wanted.started,
         wanted.updated, expires),
    )  # fmt: skip
    return ingest(tx, wanted.namespace, wanted.ref)


def end(tx: Transaction, namespace: str, ref: str, lease: str) -> None:
    """Forget an ingest, whether or not it is there."""
    tx.execute("DELETE FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref))
    leases.release(tx, namespace, lease, leases.INGESTS, ref)


_COLUMNS = "digest, size, labels, created, updated"
_INGEST = "namespace, ref, folder, total, shared, started, updated"


def _blob(row: tuple[str, int, str, int, int]) -> Blob:
    digest, size, labels, created, updated = row
    return Blob(digest, size, load(labels), created, updated)
