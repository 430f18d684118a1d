"""Routes of manifests, tags and referrers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.oci import document
from cutaway.oci.image_spec import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
)
from cutaway.registry.reference import is_digest, is_tag
from cutaway.registry.server import failures
from cutaway.registry.server.failures import API_VERSION
from cutaway.registry.server.storage import Storage

MAX_MANIFEST: Final = 4 << 20  # bytes, as distribution has it
DIGEST: Final = "Docker-Content-Digest"


class ManifestRoutes:
    """GET, HEAD, PUT and DELETE of manifests; lists of tags, repositories and referrers."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def get(self, request: web.Request) -> web.Response:
        """The manifest of a tag or digest, in the type it was pushed as, whatever the client accepts."""
        stored = self._storage.manifest(request.match_info["name"], request.match_info["reference"])
        headers = {
            **API_VERSION,
            "Content-Type": stored.media_type,
            DIGEST: stored.digest,
            "Etag": f'"{stored.digest}"',
        }
        if request.headers.get("If-None-Match") == headers["Etag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=stored.read(), headers=headers)

    async def put(self, request: web.Request) -> web.Response:
        """Store a manifest whose parts are all here."""
        name, reference = request.match_info["name"], request.match_info["reference"]
        data = await _read(request)
        media_type = request.content_type if "Content-Type" in request.headers else ""
        algorithm = reference.partition(":")[0] if is_digest(reference) else "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if is_digest(reference) and reference != digest:
            raise failures.digest_invalid(f"provided digest did not match uploaded content: got {digest}")
        if not is_digest(reference) and not is_tag(reference):
            raise failures.tag_invalid(reference)
        media_type, subject = self._check(name, data, media_type)
        tag = "" if is_digest(reference) else reference
        await asyncio.to_thread(self._storage.put_manifest, name, data, media_type, digest, tag)
        headers = {**API_VERSION, DIGEST: digest, "Location": f"/v2/{name}/manifests/{digest}"}
        if subject:
            headers["OCI-Subject"] = subject.digest
        return web.Response(status=201, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        name, reference = request.match_info["name"], request.match_info["reference"]
        await asyncio.to_thread(self._storage.delete_manifest, name, reference)
        return web.Response(status=202, headers=API_VERSION)

    async def tags(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        page, link = _page(request, self._storage.tags(name))
        return web.json_response({"name": name, "tags": page}, headers={**API_VERSION, **link})

    async def catalog(self, request: web.Request) -> web.Response:
        page, link = _page(request, self._storage.repositories())
        return web.json_response({"repositories": page}, headers={**API_VERSION, **link})

    async def referrers(self, request: web.Request) -> web.Response:
        """The manifests of a repository whose subject is a digest."""
        name, digest = request.match_info["name"], request.match_info["digest"]
        self._storage.blob_path(digest)
        wanted = request.query.get("artifactType", "")
        found = await asyncio.to_thread(self._referrers, name, digest)
        entries = [entry for entry in found if not wanted or entry.artifact_type == wanted]
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=entries)
        headers = {**API_VERSION, "Content-Type": OCI_INDEX}
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        return web.Response(body=document.dumps(index).encode(), headers=headers)

    def _referrers(self, name: str, digest: str) -> list[Descriptor]:
        entries: list[Descriptor] = []
        for stored in self._storage.manifests(name):
            data = stored.read()
            parsed: Index | Manifest
            if stored.media_type in INDEX_TYPES:
                parsed = document.loads(Index, data, stored.digest)
            else:
                parsed = document.loads(Manifest, data, stored.digest)
            if parsed.subject is None or parsed.subject.digest != digest:
                continue
            artifact_type = parsed.artifact_type
            if artifact_type is None and isinstance(parsed, Manifest):
                artifact_type = parsed.config.media_type
            entries.append(
                Descriptor(
                    media_type=stored.media_type,
                    digest=stored.digest,
                    size=len(data),
                    artifact_type=artifact_type,
                    annotations=parsed.annotations,
                )
            )
        return entries

    def _check(self, name: str, data: bytes, media_type: str) -> tuple[str, Descriptor | None]:
        """Refuse a manifest that is none or whose parts the repository lacks; give its type and subject."""
        try:
            media_type = media_type or _own_type(data)
            if media_type in INDEX_TYPES:
                index = document.loads(Index, data, "manifest")
                self._check_parts(name, index.manifests, manifests=True)
                return media_type, index.subject
            if media_type in MANIFEST_TYPES:
                manifest = document.loads(Manifest, data, "manifest")
                self._check_parts(name, [manifest.config, *manifest.layers], manifests=False)
                return media_type, manifest.subject
        except errors.InvalidArgument as error:
            raise failures.manifest_invalid(str(error)) from None
        raise failures.manifest_invalid(f"unsupported manifest media type {media_type[:255]!r}")

    def _check_parts(self, name: str, parts: list[Descriptor], *, manifests: bool) -> None:
        for part in parts:
            if not is_digest(part.digest):
                raise errors.InvalidArgument(f"manifest: invalid digest {part.digest[:255]!r}")
            if part.urls:  # a foreign layer, kept elsewhere
                continue
            has = self._storage.has_manifest if manifests else self._storage.has_blob
            if not has(name, part.digest):
                raise failures.manifest_blob_unknown(part.digest)


async def _read(request: web.Request) -> bytes:
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > MAX_MANIFEST:
            raise errors.ResourceExhausted(f"manifest is larger than {MAX_MANIFEST} bytes")
    return bytes(data)


def _own_type(data: bytes) -> str:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise errors.InvalidArgument("manifest: not valid JSON") from None
    own = value.get("mediaType") if isinstance(value, dict) else None
    return own if isinstance(own, str) else ""


def _page(request: web.Request, names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The part of a list that `n` and `last` ask for, and the header that leads to the next."""
    last, count = request.query.get("last", ""), request.query.get("n", "")
    names = [name for name in names if name > last]
    if not count:
        return names, {}
    if not count.isdecimal():
        raise errors.InvalidArgument("n: expected a number that is not negative")
    page = names[: int(count)]
    if len(page) == len(names) or not page:
        return page, {}
    target = request.rel_url.with_query({"n": count, "last": page[-1]})
    return page, {"Link": f'<{target}>; rel="next"'}
