"""Pushing: blobs mounted or uploaded, manifests put under their names.

    HEAD blobs/DIGEST                      is it there?
    POST blobs/uploads/?mount=D&from=REPO  201: mounted; 202: go on, at Location
    PUT  LOCATION?digest=D                 a small blob, whole
    PATCH LOCATION ... PUT ?digest=D       a large one; after a cut GET LOCATION says where to go on
    PUT  manifests/NAME                    last: its parts must be there

Source: opencontainers/distribution-spec, "Push".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client.client import Repository
from cutaway.registry.client.manifests import Fetched
from cutaway.registry.client.transport import located
from cutaway.trace import spans

SMALL: Final = 1 << 20  # bytes; up to here one request takes a blob
MAX_RESUMES: Final = 5
_OCTETS: Final = {"Content-Type": "application/octet-stream"}

Source = Callable[[int], AsyncIterator[bytes]]
"""A blob's bytes from an offset on."""


async def has_blob(repository: Repository, digest: str) -> bool:
    """Whether the repository has a blob already."""
    async with repository.request("HEAD", f"blobs/{digest}", {}, accepted=(200, 404)) as response:
        return response.status == 200


async def mount_blob(repository: Repository, digest: str, source: str) -> bool:
    """Have the registry link a blob from another of its repositories; False if it would not.

    `source` is that repository's path; its right to be read must have been asked for as well
    (`RegistryClient.repository`, `mount_from`).
    """
    path = f"blobs/uploads/?{URL.build(query={'mount': digest, 'from': source}).query_string}"
    async with repository.request("POST", await repository.url(path), {}, accepted=(201, 202)) as response:
        if response.status == 201:
            return True
        location = _location(response)
    # An upload has begun instead; nobody will go on with it.
    async with repository.request("DELETE", location, {}, accepted=range(200, 600)):
        return False


async def upload_blob(repository: Repository, descriptor: Descriptor, source: Source) -> None:
    """Send a blob; a connection that breaks is taken up where it broke, up to five times.

    Raises `DataLoss` when the registry finds other bytes than the digest says.
    """
    with spans.span("upload", digest=descriptor.digest, size=descriptor.size) as span:
        async with repository.request("POST", "blobs/uploads/", {}, accepted=(202,)) as response:
            location = _location(response)
        if descriptor.size <= SMALL:
            await _put(repository, location, descriptor, source)
            return
        upload = _Upload(repository, location, descriptor, source)
        await upload.send()
        span.set(resumed=upload.resumes)
        await _put(repository, upload.location, descriptor, None)


async def put_manifest(repository: Repository, manifest: Fetched, name: str = "") -> None:
    """Put a manifest or index under a tag, or under its digest. Raises what the registry refuses."""
    path = f"manifests/{name or manifest.descriptor.digest}"
    headers = {"Content-Type": manifest.descriptor.media_type}
    async with repository.request(
        "PUT", path, headers, accepted=(200, 201, 202), body=manifest.data
    ) as response:
        stored = response.headers.get("Docker-Content-Digest", manifest.descriptor.digest)
    if stored != manifest.descriptor.digest:
        raise errors.DataLoss(f"the registry stored {name or 'the manifest'} as {stored}, "
                              f"expected {manifest.descriptor.digest}")  # fmt: skip


@dataclass
class _Upload:
    """A large blob on its way."""

    repository: Repository
    location: str
    descriptor: Descriptor
    source: Source
    resumes: int = 0

    async def send(self) -> None:
        offset = 0
        while offset < self.descriptor.size:
            try:
                offset = await self._patch(offset)
            except (errors.Unavailable, aiohttp.ClientError, ConnectionError) as error:
                self.resumes += 1
                if self.resumes > MAX_RESUMES:
                    raise errors.Unavailable(
                        f"upload of {self.descriptor.digest} was cut {self.resumes} times: {error}"
                    ) from error
                offset = await self._received()

    async def _patch(self, offset: int) -> int:
        """Send the rest in one request; returns the offset that the registry has reached."""
        size = self.descriptor.size
        headers = {**_OCTETS, "Content-Length": str(size - offset), "Content-Range": f"{offset}-{size - 1}"}
        async with self.repository.request(
            "PATCH", self.location, headers, accepted=(202, 204), body=lambda: self.source(offset), once=True
        ) as response:
            self.location = _location(response, self.location)
            return _reached(response, size)

    async def _received(self) -> int:
        async with self.repository.request("GET", self.location, {}, accepted=(200, 204)) as response:
            self.location = _location(response, self.location)
            return _reached(response, 0)


async def _put(repository: Repository, location: str, descriptor: Descriptor, source: Source | None) -> None:
    """End an upload, with the whole blob if it has not been sent yet."""
    url = URL(location, encoded=True)
    query = {**url.query, "digest": descriptor.digest}
    headers = {**_OCTETS, "Content-Length": str(descriptor.size if source else 0)}
    body = (lambda: source(0)) if source else b""
    async with repository.request("PUT", str(url.with_query(query)), headers, accepted=(201, 204), body=body):
        return


def _location(response: aiohttp.ClientResponse, known: str = "") -> str:
    """Where an upload goes on; http(s) only, as for redirects. Raises `Unknown`."""
    found = response.headers.get("Location", known)
    try:
        url = located(response.url, found)
    except ValueError:
        url = URL()
    if not found or url.scheme not in ("http", "https") or not url.host:
        raise errors.Unknown("the registry does not say where to upload to")
    if url.scheme == "http" and response.url.scheme == "https":
        # Behind a proxy that ends TLS some registries believe themselves to be plain HTTP.
        url = url.with_scheme("https")
    return str(url)


def _reached(response: aiohttp.ClientResponse, otherwise: int) -> int:
    """How many bytes the registry has, by its Range header `0-LAST`; `0-0` is what it says of none."""
    _, _, last = response.headers.get("Range", "").rpartition("-")
    if not last.isdecimal():
        return otherwise
    return int(last) + 1 if int(last) else 0
