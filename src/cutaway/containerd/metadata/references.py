"""What keeps what alive, read from the records: the graph that garbage collection walks.

    roots       images (their target) and ingests that have not expired, containers (their snapshot),
                live leases (all they list), and whatever carries the label containerd.io/gc.root
    edges       labels containerd.io/gc.ref.content[.NAME] = digest
                       containerd.io/gc.ref.snapshot.SNAPSHOTTER[/NAME] = snapshot
                a snapshot needs its parent, an ingest the blob that it shares
    back edges  label containerd.io/gc.bref.image[.NAME] = an image, which keeps this one though it expired

Everything stays within its namespace. Source: containerd's documentation on garbage collection.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from cutaway.containerd.metadata import leases
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import load

log = logging.getLogger("containerd.gc")

ROOT = "containerd.io/gc.root"
EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"
_CONTENT = "containerd.io/gc.ref.content"
_BACK = "containerd.io/gc.bref.image"
_SNAPSHOT = "containerd.io/gc.ref.snapshot."


class Node(NamedTuple):
    """Something that may be kept or collected."""

    kind: str
    """`content`, `ingests` or `snapshots/<snapshotter>`, as in leases."""
    namespace: str
    key: str
    flat: bool = False
    """Kept for a lease that does not follow labels."""


def reachable(tx: Transaction, now: int) -> set[tuple[str, str, str]]:
    """Kind, namespace and key of all that is alive at a time."""
    graph = _Graph(tx)
    todo = list(_roots(tx, now, graph))
    seen = set(todo)
    while todo:
        for node in graph.edges(todo.pop()):
            if node not in seen:
                seen.add(node)
                todo.append(node)
    return {node[:3] for node in seen}


def has_expired(labels: Mapping[str, str], name: str, now: int) -> bool:
    """Whether a lease or image has ended by itself; a time that cannot be read never comes."""
    text = labels.get(EXPIRE)
    if text is None:
        return False
    try:
        expires = datetime.fromisoformat(text)
    except ValueError:
        log.info("%s: ignoring invalid expiration value %r", name, text)
        return False
    return now > expires.timestamp() * 1e9


def _roots(tx: Transaction, now: int, graph: _Graph) -> Iterator[Node]:
    for namespace, id, labels in tx.execute("SELECT namespace, id, labels FROM leases").fetchall():
        known = load(labels)
        if not has_expired(known, id, now):
            rows = tx.execute(
                "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ?", (namespace, id)
            )
            for kind, key in rows:
                yield Node(kind, namespace, key, FLAT in known)
    alive = living_images(tx, now)
    for namespace, name, digest, labels in tx.execute("SELECT namespace, name, digest, labels FROM images"):
        if (namespace, name) in alive:
            yield Node(leases.CONTENT, namespace, digest)
            yield from _referred(namespace, load(labels))
    rows = tx.execute("SELECT namespace, snapshotter, snapshot_key, labels FROM containers")
    for namespace, snapshotter, key, labels in rows:
        if snapshotter:
            yield Node(f"{leases.SNAPSHOTS}/{snapshotter}", namespace, key)
        yield from _referred(namespace, load(labels))
    for namespace, ref in tx.execute("SELECT namespace, ref FROM ingests WHERE expires > ?", (now,)):
        yield Node(leases.INGESTS, namespace, ref)
    yield from graph.pinned()


def living_images(tx: Transaction, now: int) -> set[tuple[str, str]]:
    """Namespace and name of the images that have not expired, and of those that these keep."""
    waiting: dict[tuple[str, str], list[tuple[str, str]]] = {}
    todo: list[tuple[str, str]] = []
    for namespace, name, labels in tx.execute("SELECT namespace, name, labels FROM images"):
        known = load(labels)
        if not has_expired(known, name, now):
            todo.append((namespace, name))
            continue
        for key, value in known.items():
            rest = key.removeprefix(_BACK)
            if rest != key and rest[:1] in ("", ".", "/"):
                waiting.setdefault((namespace, value), []).append((namespace, name))
    alive = set(todo)
    while todo:
        kept = [one for one in waiting.pop(todo.pop(), []) if one not in alive]
        alive.update(kept)
        todo += kept
    return alive


def _referred(namespace: str, labels: Mapping[str, str]) -> Iterator[Node]:
    for key, value in labels.items():
        rest = key.removeprefix(_CONTENT)
        if rest != key and rest[:1] in ("", ".", "/"):
            yield Node(leases.CONTENT, namespace, value)
        elif key.startswith(_SNAPSHOT):
            snapshotter = key.removeprefix(_SNAPSHOT).partition("/")[0]
            yield Node(f"{leases.SNAPSHOTS}/{snapshotter}", namespace, value)


class _Graph:
    """The records that have edges, read once."""

    def __init__(self, tx: Transaction) -> None:
        rows = tx.execute("SELECT namespace, digest, labels FROM blobs")
        self._blobs = {(namespace, digest): load(labels) for namespace, digest, labels in rows}
        rows = tx.execute("SELECT namespace, snapshotter, name, parent, labels FROM snapshots")
        self._snapshots = {
            (namespace, f"{leases.SNAPSHOTS}/{snapshotter}", name): (parent, load(labels))
            for namespace, snapshotter, name, parent, labels in rows
        }
        rows = tx.execute("SELECT namespace, ref, shared FROM ingests")
        self._ingests = {(namespace, ref): shared for namespace, ref, shared in rows}

    def pinned(self) -> Iterator[Node]:
        for (namespace, digest), labels in self._blobs.items():
            if ROOT in labels:
                yield Node(leases.CONTENT, namespace, digest)
        for (namespace, kind, name), (_, labels) in self._snapshots.items():
            if ROOT in labels:
                yield Node(kind, namespace, name)

    def edges(self, node: Node) -> Iterator[Node]:
        """What a node keeps alive; nothing for one that is not there."""
        if node.kind == leases.CONTENT:
            if not node.flat:
                yield from _referred(node.namespace, self._blobs.get((node.namespace, node.key), {}))
        elif node.kind == leases.INGESTS:
            if shared := self._ingests.get((node.namespace, node.key)):
                yield Node(leases.CONTENT, node.namespace, shared)
        else:
            parent, labels = self._snapshots.get((node.namespace, node.kind, node.key), ("", {}))
            if parent:
                yield Node(node.kind, node.namespace, parent, node.flat)
            if not node.flat:
                yield from _referred(node.namespace, labels)
