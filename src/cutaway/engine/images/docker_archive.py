"""The archive of `docker save`: manifest.json names each image's configuration, layers and tags.

Docker 1.10 and later, podman, buildah and skopeo make them; layers are plain tar files there, or
compressed (Docker 25 with containerd's store). The manifest that a registry would have is made here.
Source: moby's image-spec v1.2 ("Combined Image JSON + Filesystem Changeset Format").
"""

import hashlib
from typing import Final

from cutaway import errors
from cutaway.engine.images.archived import (
    ArchivedImage,
    ArchivedLayer,
    Document,
    described,
    labels_of,
    to_json,
)
from cutaway.engine.images.content import MAX_DOCUMENT
from cutaway.oci import document
from cutaway.oci.archive import listings
from cutaway.oci.archive.listings import MANIFEST
from cutaway.oci.archive.spool import MAGIC_SIZE, compression_of
from cutaway.oci.archive.tarfiles import Archive, Member
from cutaway.oci.image_spec import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_ZSTD,
    Descriptor,
    ImageConfig,
    Manifest,
)
from cutaway.registry import reference
from cutaway.registry.reference import Reference, is_digest

MAX_IMAGES: Final = 1000
MAX_LAYERS: Final = 1000

_TYPES: Final = {"": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


def read_images(archive: Archive) -> list[ArchivedImage]:
    """Every image of the archive. Raises `InvalidArgument`, `NotFound` for parts that are missing."""
    raw = archive.read(MANIFEST, MAX_DOCUMENT)
    items = listings.items(raw)
    if len(items) > MAX_IMAGES:
        raise errors.ResourceExhausted(f"{MANIFEST}: {len(items)} images: at most {MAX_IMAGES} allowed")
    return [_read(archive, item) for item in items]


def _read(archive: Archive, item: listings.Item) -> ArchivedImage:
    raw = archive.read(item.config, MAX_DOCUMENT)
    config = document.loads(ImageConfig, raw, f"image configuration {item.config}")
    diff_ids, names = config.rootfs.diff_ids, item.layers or []
    if len(diff_ids) != len(names):
        raise errors.InvalidArgument(
            f"invalid manifest, layers length mismatch: expected {len(names)}, got {len(diff_ids)}"
        )
    if len(names) > MAX_LAYERS:
        raise errors.ResourceExhausted(f"{MANIFEST}: {len(names)} layers: at most {MAX_LAYERS} allowed")
    layers = [_layer(archive, name, diff_id) for name, diff_id in zip(names, diff_ids, strict=True)]
    described_config = described(DOCKER_CONFIG, raw)
    manifest = Manifest(
        schema_version=2,
        media_type=DOCKER_MANIFEST,
        config=described_config,
        layers=[layer.descriptor for layer in layers],
    )
    data = to_json(document.encode(manifest))
    target = described(DOCKER_MANIFEST, data)
    documents = [Document(described_config, raw), Document(target, data, labels_of(manifest))]
    return ArchivedImage(_tags(item.repo_tags or []), target, documents, layers)


def _tags(texts: list[str]) -> tuple[Reference, ...]:
    tags = tuple(reference.parse(text).with_default_tag() for text in texts)
    if any(tag.digest for tag in tags):
        raise errors.InvalidArgument(f'invalid tag "{texts[0]}": a name in an archive has no digest')
    return tags


def _layer(archive: Archive, name: str, diff_id: str) -> ArchivedLayer:
    if not is_digest(diff_id):
        raise errors.InvalidArgument(f"image configuration: invalid diff_id {diff_id[:80]!r}")
    member = archive.find(name)
    kind = compression_of(next(archive.pieces(member), b"")[:MAGIC_SIZE])
    if kind not in _TYPES:
        raise errors.InvalidArgument(
            f"layer {name}: {kind} is supported for the archive only, not for its layers"
        )
    # containerd digests it while it is stored, so that a plain layer need not be read twice.
    digest = _digest(archive, member) if kind else diff_id
    return ArchivedLayer(
        Descriptor(media_type=_TYPES[kind], digest=digest, size=member.size), member, diff_id
    )


def _digest(archive: Archive, member: Member) -> str:
    digester = hashlib.sha256()
    for piece in archive.pieces(member):
        digester.update(piece)
    return f"sha256:{digester.hexdigest()}"
