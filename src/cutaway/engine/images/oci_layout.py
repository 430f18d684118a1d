"""An OCI image layout in a tar file: index.json leads to manifests, and these to blobs/ALGORITHM/DIGEST.

Docker 25 and later, skopeo, podman, buildah, umoci and ctr make them. Of an index those manifests are
taken that are there with all their parts: who saves an image of many platforms may have had only one.
Source: opencontainers/image-spec, image-layout.md.
"""

from typing import Final

from cutaway import errors
from cutaway.engine.images.archived import (
    GC_CONTENT,
    ArchivedImage,
    ArchivedLayer,
    Document,
    digest_of,
    labels_of,
)
from cutaway.engine.images.content import MAX_DOCUMENT
from cutaway.oci import document
from cutaway.oci.archive.listings import FULL_NAME, INDEX, LAYOUT, REF_NAME, VERSION, Layout
from cutaway.oci.archive.tarfiles import Archive
from cutaway.oci.image_spec import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Descriptor, Index
from cutaway.registry import reference
from cutaway.registry.client.manifests import Fetched, read_index, read_manifest
from cutaway.registry.client.platforms import is_attestation
from cutaway.registry.reference import Reference, is_digest

MAX_DEPTH: Final = 4  # of indexes inside indexes
MAX_ENTRIES: Final = 1000


def is_layout(archive: Archive) -> bool:
    """Whether this archive holds an image layout."""
    return LAYOUT in archive and INDEX in archive


def read_images(archive: Archive) -> list[ArchivedImage]:
    """Every image that index.json names, those with one digest as one."""
    layout = document.loads(Layout, archive.read(LAYOUT, MAX_DOCUMENT), LAYOUT)
    if layout.image_layout_version != VERSION:
        raise errors.InvalidArgument(
            f"{LAYOUT}: version {layout.image_layout_version[:40]!r}: expected {VERSION}"
        )
    index = document.loads(Index, archive.read(INDEX, MAX_DOCUMENT), INDEX)
    if len(index.manifests) > MAX_ENTRIES:
        raise errors.ResourceExhausted(
            f"{INDEX}: {len(index.manifests)} manifests: at most {MAX_ENTRIES} allowed"
        )
    found: dict[str, ArchivedImage] = {}
    for entry in index.manifests:
        known = found.get(entry.digest)
        made = known or _Reader(archive).image(entry)
        names = dict.fromkeys([*made.names, *_names(entry)])
        found[entry.digest] = ArchivedImage(tuple(names), made.target, made.documents, made.layers)
    return list(found.values())


def _names(entry: Descriptor) -> list[Reference]:
    """The name an entry gives itself: a whole one, or one that is more than a tag."""
    annotations = entry.annotations or {}
    full, short = annotations.get(FULL_NAME, ""), annotations.get(REF_NAME, "")
    text = full or (short if ":" in short or "/" in short else "")
    if not text:
        return []
    named = reference.parse(text).with_default_tag()
    return [] if named.digest else [named]


class _Reader:
    """Gathers what belongs to one entry of index.json."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._documents: dict[str, Document] = {}
        self._layers: dict[str, ArchivedLayer] = {}

    def image(self, entry: Descriptor) -> ArchivedImage:
        self._take(entry, 0)
        target = Descriptor(media_type=entry.media_type, digest=entry.digest, size=entry.size)
        return ArchivedImage((), target, list(self._documents.values()), list(self._layers.values()))

    def _take(self, entry: Descriptor, depth: int) -> None:
        fetched = self._fetch(entry)
        if entry.media_type in INDEX_TYPES:
            if depth == MAX_DEPTH:
                raise errors.InvalidArgument(f"image index: more than {MAX_DEPTH} indexes inside each other")
            self._take_index(fetched, depth)
        elif entry.media_type in MANIFEST_TYPES:
            self._take_manifest(fetched)
        else:
            raise errors.InvalidArgument(f"unsupported media type {entry.media_type[:100]!r} in {INDEX}")

    def _take_index(self, fetched: Fetched, depth: int) -> None:
        labels: dict[str, str] = {}
        for number, entry in enumerate(read_index(fetched).manifests):
            if not is_digest(entry.digest) or _path(entry.digest) not in self._archive:
                continue
            before = dict(self._documents), dict(self._layers)
            try:
                self._take(entry, depth + 1)
            except errors.NotFound:  # saved without its layers
                self._documents, self._layers = before
                continue
            except errors.InvalidArgument:
                if not is_attestation(entry):
                    raise
                self._documents, self._layers = before
                continue
            labels[f"{GC_CONTENT}.m.{number}"] = entry.digest
        if not labels:
            raise errors.NotFound(f"archive: none of the manifests of {fetched.descriptor.digest} is in it")
        self._documents[fetched.descriptor.digest] = Document(fetched.descriptor, fetched.data, labels)

    def _take_manifest(self, fetched: Fetched) -> None:
        manifest = read_manifest(fetched)
        if manifest.config.media_type not in CONFIG_TYPES:
            raise errors.InvalidArgument(
                f"unsupported media type {manifest.config.media_type[:100]!r}: not an image"
            )
        config = self._fetch(manifest.config)
        for layer in manifest.layers:
            member = self._archive.find(_path(layer.digest))
            if member.size != layer.size:
                raise errors.InvalidArgument(
                    f"archive: {layer.digest} has {member.size} bytes, expected {layer.size}"
                )
            self._layers[layer.digest] = ArchivedLayer(layer, member)
        self._documents[config.descriptor.digest] = Document(config.descriptor, config.data)
        self._documents[fetched.descriptor.digest] = Document(
            fetched.descriptor, fetched.data, labels_of(manifest)
        )

    def _fetch(self, entry: Descriptor) -> Fetched:
        if not is_digest(entry.digest) or not entry.digest.startswith("sha256:"):
            raise errors.InvalidArgument(f"archive: invalid digest {entry.digest[:80]!r}")
        data = self._archive.read(_path(entry.digest), MAX_DOCUMENT)
        if digest_of(data) != entry.digest:
            raise errors.DataLoss(f"archive: {entry.digest} has the content {digest_of(data)}")
        return Fetched(Descriptor(media_type=entry.media_type, digest=entry.digest, size=len(data)), data)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
