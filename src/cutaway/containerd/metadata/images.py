"""Images: a name for a descriptor. The name is the client's, in full, and never taken apart here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutaway.containerd import filters, names
from cutaway.containerd.metadata import namespaces
from cutaway.containerd.metadata.database import Transaction
from cutaway.containerd.metadata.values import Labels, dump, kept, load, masked, now
from cutaway.errors import AlreadyExists, InvalidArgument, NotFound


@dataclass(frozen=True, slots=True)
class Target:
    """The descriptor an image points to."""

    media_type: str
    digest: str
    size: int
    annotations: Labels


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    labels: Labels
    target: Target
    created: int = 0
    updated: int = 0

    def lookup(self, path: Sequence[str]) -> str | None:
        """For filters."""
        match path[0], *path[1:]:
            case ["name"]:
                return self.name or None
            case ["target", "digest"]:
                return self.target.digest or None
            case ["target", "mediatype"]:
                return self.target.media_type or None
            case ["labels", *rest]:
                return filters.in_map(rest, self.labels)
            case ["annotations", *rest]:
                return filters.in_map(rest, self.target.annotations)
        return None


def get(tx: Transaction, namespace: str, name: str) -> Image:
    """Raises `NotFound`."""
    row = tx.execute(
        f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND name = ?", (namespace, name)
    ).fetchone()
    if not row:
        raise NotFound(f'image "{name}": not found')
    return _image(row)


def find(tx: Transaction, namespace: str, wanted: filters.Filter) -> list[Image]:
    rows = tx.execute(f"SELECT {_COLUMNS} FROM images WHERE namespace = ? ORDER BY name", (namespace,))
    return [image for image in map(_image, rows) if wanted.matches(image.lookup)]


def create(tx: Transaction, namespace: str, image: Image) -> Image:
    """Raises `InvalidArgument`, `AlreadyExists`."""
    _validate(image)
    if tx.execute(
        "SELECT 1 FROM images WHERE namespace = ? AND name = ?", (namespace, image.name)
    ).fetchone():
        raise AlreadyExists(f'image "{image.name}": already exists')
    namespaces.ensure(tx, namespace)
    created = now()
    return _write(tx, namespace, replace(image, labels=kept(image.labels), created=created, updated=created))


def update(tx: Transaction, namespace: str, image: Image, paths: Sequence[str]) -> Image:
    """Change what a field mask names, or without one everything. Raises `NotFound`, `InvalidArgument`."""
    if not image.name:
        raise InvalidArgument("image name is required for update: invalid argument")
    old = get(tx, namespace, image.name)
    changed = _masked(old, image, paths) if paths else image
    _validate(changed)
    return _write(
        tx, namespace, replace(changed, labels=kept(changed.labels), created=old.created, updated=now())
    )


def delete(tx: Transaction, namespace: str, name: str, digest: str = "") -> None:
    """Remove an image, if `digest` is given only while it points there. Raises `NotFound`."""
    if digest and get(tx, namespace, name).target.digest != digest:
        raise NotFound(f'image "{name}" has changed: not found')
    if not tx.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (namespace, name)).rowcount:
        raise NotFound(f'image "{name}": not found')


_COLUMNS = "name, labels, media_type, digest, size, annotations, created, updated"


def _image(row: tuple[str, str, str, str, int, str, int, int]) -> Image:
    name, labels, media_type, digest, size, annotations, created, updated = row
    return Image(name, load(labels), Target(media_type, digest, size, load(annotations)), created, updated)


def _write(tx: Transaction, namespace: str, image: Image) -> Image:
    target = image.target
    tx.execute(
        "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (namespace, image.name, dump(image.labels), target.media_type, target.digest, target.size,
         dump(target.annotations), image.created, image.updated),
    )  # fmt: skip
    return image


def _masked(old: Image, new: Image, paths: Sequence[str]) -> Image:
    labels, others = masked(old.labels, new.labels, paths)
    target = new.target if "target" in others else old.target
    annotations, others = masked(target.annotations, new.target.annotations, others, "annotations")
    if wrong := [path for path in others if path != "target"]:
        raise InvalidArgument(f'cannot update "{wrong[0]}" field on image "{new.name}": invalid argument')
    return Image(old.name, labels, replace(target, annotations=annotations))


def _validate(image: Image) -> None:
    if not image.name:
        raise InvalidArgument("image name must not be empty: invalid argument")
    names.validate_labels(image.labels, "image.Labels")
    target = image.target
    if problem := names.digest_problem(target.digest):
        raise InvalidArgument(f'Target.Digest "{target.digest}" invalid: {problem}: invalid argument')
    if target.size <= 0:
        raise InvalidArgument("Target.Size must be greater than zero: invalid argument")
    if not target.media_type:
        raise InvalidArgument("Target.MediaType must be set: invalid argument")
