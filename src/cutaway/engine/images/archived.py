"""An image found in an archive, before anything of it is stored: what both kinds of archive come down to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cutaway.oci.archive.tarfiles import Member
from cutaway.oci.image_spec import Descriptor, Manifest
from cutaway.registry.reference import Reference

GC_CONTENT: Final = "containerd.io/gc.ref.content"


@dataclass(frozen=True)
class Document:
    """A blob small enough for memory, with the labels that say what it refers to."""

    descriptor: Descriptor
    data: bytes
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ArchivedLayer:
    """A layer's blob in the archive; `diff_id` is the digest of its tar file, where that is known."""

    descriptor: Descriptor
    member: Member
    diff_id: str = ""


@dataclass(frozen=True)
class ArchivedImage:
    """One image, or an index of images, and the names it is to have."""

    names: tuple[Reference, ...]
    target: Descriptor
    documents: list[Document]
    """What is referred to comes before what refers to it; the target is the last."""
    layers: list[ArchivedLayer]


def described(media_type: str, data: bytes) -> Descriptor:
    """The descriptor of a document."""
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def labels_of(manifest: Manifest) -> dict[str, str]:
    """What keeps a manifest's parts from garbage collection; layers kept elsewhere have none."""
    labels = {f"{GC_CONTENT}.config": manifest.config.digest}
    return labels | {f"{GC_CONTENT}.l.{number}": layer.digest for number, layer in enumerate(manifest.layers)}
