"""Manifests: HEAD, then GET by digest, checked against it, and read into documents."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from cutaway import errors
from cutaway.oci import document
from cutaway.oci.image_spec import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from cutaway.registry.client.client import Repository
from cutaway.registry.client.failures import one_line
from cutaway.registry.client.settings import MAX_MANIFEST
from cutaway.registry.client.transport import read_bounded
from cutaway.registry.reference import is_digest

ACCEPT: Final = {"Accept": ", ".join((OCI_INDEX, DOCKER_MANIFEST_LIST, OCI_MANIFEST, DOCKER_MANIFEST))}
_SCHEMA_1: Final = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
# A HEAD has no body to say why it failed; the GET that follows has.
_ANY_BUT_401: Final = frozenset(range(200, 600)) - {401}
MAX_ENTRIES: Final = 1000  # of an index or of a manifest's layers; the largest known have some hundred


@dataclass(frozen=True)
class Fetched:
    """A manifest or index as the registry sent it, with its digest."""

    descriptor: Descriptor
    data: bytes


async def resolve(repository: Repository) -> Descriptor | None:
    """What the reference's tag or digest names now; None where the registry does not say so to a HEAD."""
    reference = repository.reference
    path = f"manifests/{reference.digest or reference.tag}"
    async with repository.request("HEAD", path, ACCEPT, accepted=_ANY_BUT_401) as response:
        digest = reference.digest or response.headers.get("Docker-Content-Digest", "")
        if response.status != 200 or not is_digest(digest) or response.content_length is None:
            return None
        media_type = _media_type(response.headers.get("Content-Type", ""))
        return Descriptor(media_type=media_type, digest=digest, size=response.content_length)


async def fetch(repository: Repository, descriptor: Descriptor | None) -> Fetched:
    """Get a manifest by its descriptor, or by the reference itself when there is none.

    Raises `DataLoss` when the digest is another, `ResourceExhausted` beyond 4 MiB and `InvalidArgument`
    for a media type that is no image's.
    """
    reference = repository.reference
    wanted = descriptor.digest if descriptor else reference.digest
    name = wanted or reference.tag
    if descriptor and descriptor.size > MAX_MANIFEST:
        raise errors.ResourceExhausted(f"manifest {name} is larger than {MAX_MANIFEST} bytes")
    async with repository.request("GET", f"manifests/{name}", ACCEPT) as response:
        data = await read_bounded(response, MAX_MANIFEST, f"manifest {name}")
        media_type = _media_type(response.headers.get("Content-Type", ""))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if wanted and digest_of(data, wanted) != wanted:
        raise errors.DataLoss(f"manifest verification failed for digest {wanted}: got {digest}")
    if descriptor and descriptor.size not in (0, len(data)):
        raise errors.DataLoss(f"manifest {name} has {len(data)} bytes, expected {descriptor.size}")
    media_type = media_type if _is_image_type(media_type) else _own_media_type(data, media_type)
    return Fetched(Descriptor(media_type=media_type, digest=wanted or digest, size=len(data)), data)


def digest_of(data: bytes, like: str) -> str:
    """The digest of some bytes by the algorithm of the digest `like`."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def is_index(descriptor: Descriptor) -> bool:
    return descriptor.media_type in INDEX_TYPES


def read_index(fetched: Fetched) -> Index:
    """The index in what was fetched; `InvalidArgument` names what is wrong with it."""
    index = document.loads(Index, fetched.data, "image index")
    for number, entry in enumerate(_bounded(index.manifests, "manifests")):
        check_descriptor(entry, f"image index: manifests[{number}]")
    return index


def read_manifest(fetched: Fetched) -> Manifest:
    """The manifest in what was fetched; `InvalidArgument` names what is wrong with it."""
    manifest = document.loads(Manifest, fetched.data, "image manifest")
    check_descriptor(manifest.config, "image manifest: config")
    for number, layer in enumerate(_bounded(manifest.layers, "layers")):
        check_descriptor(layer, f"image manifest: layers[{number}]")
    return manifest


def check_descriptor(descriptor: Descriptor, where: str) -> None:
    """Refuse a descriptor whose digest or size cannot be."""
    if not is_digest(descriptor.digest):
        raise errors.InvalidArgument(f"{where}: invalid digest {one_line(descriptor.digest)!r}")
    if descriptor.size < 0:
        raise errors.InvalidArgument(f"{where}: negative size {descriptor.size}")


def _bounded(entries: list[Descriptor], what: str) -> list[Descriptor]:
    if len(entries) > MAX_ENTRIES:
        raise errors.ResourceExhausted(f"manifest with {len(entries)} {what}: at most {MAX_ENTRIES} allowed")
    return entries


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _is_image_type(media_type: str) -> bool:
    return media_type in MANIFEST_TYPES or media_type in INDEX_TYPES


def _own_media_type(data: bytes, told: str) -> str:
    """The type a document gives itself, for registries that serve manifests under a generic one."""
    if told in _SCHEMA_1:
        raise errors.InvalidArgument(
            f"unsupported media type {told}: image manifest version 2, schema 1 is no longer supported; "
            "the image must be pushed again by a newer tool"
        )
    own = ""
    if told in ("", "application/json", "text/plain", "application/octet-stream"):
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise errors.InvalidArgument("image manifest: not valid JSON") from None
        own = value.get("mediaType", "") if isinstance(value, dict) else ""
    if isinstance(own, str) and _is_image_type(own):
        return own
    raise errors.InvalidArgument(f"unsupported media type {one_line(told) or 'none'}")
