"""Containers: what a task would be made from. No container here means that anything runs.

Typed values (spec, runtime options, extensions) are opaque: they are given back byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from cutaway.containerd import filters, names
from cutaway.containerd.metadata import namespaces
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import Labels, dump, kept, load, masked, now
from cutaway.errors import AlreadyExists, InvalidArgument, NotFound

# What an update without a field mask may change, as containerd spells it.
MUTABLE = ("labels", "spec", "extensions", "image", "snapshotkey")


class Typed(msgspec.Struct, frozen=True, array_like=True):
    """A value with the name of its type (google.protobuf.Any)."""

    type_url: str
    value: bytes


Extensions = dict[str, Typed]


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    runtime: str = ""
    options: Typed | None = None
    spec: Typed | None = None
    image: str = ""
    snapshotter: str = ""
    snapshot_key: str = ""
    sandbox: str = ""
    labels: Labels = field(default_factory=dict)
    extensions: Extensions = field(default_factory=dict)
    created: int = 0
    updated: int = 0

    def lookup(self, path: Sequence[str]) -> str | None:
        """For filters."""
        match path[0], *path[1:]:
            case ["id"]:
                return self.id or None
            case ["runtime", "name"]:
                return self.runtime or None
            case ["image"]:
                return self.image or None
            case ["labels", *rest]:
                return filters.in_map(rest, self.labels)
        return None


def get(tx: Transaction, namespace: str, id: str) -> Container:
    """Raises `NotFound`."""
    row = tx.execute(
        f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND id = ?", (namespace, id)
    ).fetchone()
    if not row:
        raise NotFound(f'container "{id}" in namespace "{namespace}": not found')
    return _container(row)


def find(tx: Transaction, namespace: str, wanted: filters.Filter) -> list[Container]:
    rows = tx.execute(f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? ORDER BY id", (namespace,))
    return [one for one in map(_container, rows) if wanted.matches(one.lookup)]


def labelled(tx: Transaction, label: str) -> list[tuple[str, Container]]:
    """Those of all namespaces that have a label, each with its namespace."""
    rows = tx.execute(
        f"SELECT namespace, {_COLUMNS} FROM containers WHERE instr(labels, ?) ORDER BY namespace, id",
        (label,),
    )
    found = [(namespace, _container(row)) for namespace, *row in rows]
    return [(namespace, one) for namespace, one in found if label in one.labels]


def create(tx: Transaction, namespace: str, container: Container) -> Container:
    """Raises `InvalidArgument`, `AlreadyExists`."""
    _validate(container, "create container failed validation")
    if tx.execute(
        "SELECT 1 FROM containers WHERE namespace = ? AND id = ?", (namespace, container.id)
    ).fetchone():
        raise AlreadyExists(f'container "{container.id}": already exists')
    namespaces.ensure(tx, namespace)
    created = now()
    return _write(
        tx, namespace, replace(container, labels=kept(container.labels), created=created, updated=created)
    )


def update(tx: Transaction, namespace: str, container: Container, paths: Sequence[str]) -> Container:
    """Change what a field mask names, or without one all that may change.

    Raises `NotFound`, `InvalidArgument`.
    """
    if not container.id:
        raise InvalidArgument("Container.ID required")
    try:
        old = get(tx, namespace, container.id)
    except NotFound:
        raise NotFound(f'container "{container.id}": not found') from None
    if not paths:
        _refuse_immutable(old, container)
    changed = _masked(old, container, paths or MUTABLE)
    _validate(changed, "update failed validation")
    return _write(tx, namespace, replace(changed, labels=kept(changed.labels), updated=now()))


def delete(tx: Transaction, namespace: str, id: str) -> None:
    """Raises `NotFound`."""
    if not tx.execute("DELETE FROM containers WHERE namespace = ? AND id = ?", (namespace, id)).rowcount:
        raise NotFound(f"container {id}: not found")


_COLUMNS = (
    "id, labels, image, runtime, options_type, options, spec_type, spec, "
    "snapshotter, snapshot_key, sandbox, extensions, created, updated"
)


def _container(row: Sequence[Any]) -> Container:
    (id, labels, image, runtime, options_type, options, spec_type, spec,
     snapshotter, snapshot_key, sandbox, extensions, created, updated) = row  # fmt: skip
    return Container(
        id=id,
        runtime=runtime,
        options=None if options is None else Typed(options_type, options),
        spec=Typed(spec_type, spec),
        image=image,
        snapshotter=snapshotter,
        snapshot_key=snapshot_key,
        sandbox=sandbox,
        labels=load(labels),
        extensions=msgspec.msgpack.decode(extensions, type=Extensions),
        created=created,
        updated=updated,
    )


def _write(tx: Transaction, namespace: str, container: Container) -> Container:
    options, spec = container.options, container.spec
    if spec is None:
        raise InvalidArgument("container.Spec must be set: invalid argument")
    tx.execute(
        f"INSERT OR REPLACE INTO containers (namespace, {_COLUMNS}) VALUES ({', '.join('?' * 15)})",
        (namespace, container.id, dump(container.labels), container.image, container.runtime,
         options and options.type_url, options and options.value, spec.type_url, spec.value,
         container.snapshotter, container.snapshot_key, container.sandbox,
         msgspec.msgpack.encode(container.extensions), container.created, container.updated),
    )  # fmt: skip
    return container


def _refuse_immutable(old: Container, new: Container) -> None:
    if old.snapshotter != new.snapshotter:
        raise InvalidArgument("container.Snapshotter field is immutable: invalid argument")
    if old.runtime != new.runtime:
        raise InvalidArgument("container.Runtime.Name field is immutable: invalid argument")


def _masked(old: Container, new: Container, paths: Sequence[str]) -> Container:
    labels, others = masked(old.labels, new.labels, paths)
    changed = replace(old, labels=labels)
    for path in others:
        if path == "spec":
            changed = replace(changed, spec=new.spec)
        elif path == "extensions":
            changed = replace(changed, extensions=new.extensions)
        elif path.startswith("extensions."):
            changed = replace(changed, extensions=_extension(changed, new, path.removeprefix("extensions.")))
        elif path == "image":
            changed = replace(changed, image=new.image)
        elif path == "snapshotkey":
            changed = replace(changed, snapshot_key=new.snapshot_key)
        else:
            raise InvalidArgument(f'cannot update "{path}" field on "{new.id}": invalid argument')
    return changed


def _extension(old: Container, new: Container, key: str) -> Extensions:
    found = {name: value for name, value in old.extensions.items() if name != key}
    return {**found, key: new.extensions[key]} if key in new.extensions else found


def _validate(container: Container, what: str) -> None:
    try:
        names.validate(container.id)
    except InvalidArgument as error:
        raise InvalidArgument(f"{what}: container.ID: {error}") from None
    if "" in container.extensions:
        raise InvalidArgument(f"{what}: container.Extension keys must not be zero-length: invalid argument")
    names.validate_labels(container.labels, f"{what}: containers.Labels")
    if not container.runtime:
        raise InvalidArgument(f"{what}: container.Runtime.Name must be set: invalid argument")
    if container.spec is None:
        raise InvalidArgument(f"{what}: container.Spec must be set: invalid argument")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgument(
            f"{what}: container.Snapshotter must be set if container.SnapshotKey is set: invalid argument"
        )
