"""Routes of blobs and their uploads: whole, in chunks, and by mount from another repository."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.registry.reference import is_digest
from cutaway.registry.server import failures
from cutaway.registry.server.failures import API_VERSION, Refusal
from cutaway.registry.server.storage import Storage

UPLOAD_ID: Final = "Docker-Upload-UUID"
DIGEST: Final = "Docker-Content-Digest"


class BlobRoutes:
    """GET, HEAD and DELETE of blobs; POST, PATCH, PUT, GET and DELETE of uploads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._busy: set[str] = set()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """A blob, or the range of it that is asked for."""
        digest = request.match_info["digest"]
        path = self._storage.blob(request.match_info["name"], digest)
        headers = {
            **API_VERSION,
            "Content-Type": "application/octet-stream",
            "Cache-Control": "max-age=31536000",
            DIGEST: digest,
        }
        return web.FileResponse(path, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        self._storage.unlink_blob(request.match_info["name"], request.match_info["digest"])
        return web.Response(status=202, headers=API_VERSION)

    async def start(self, request: web.Request) -> web.Response:
        """Begin an upload; with `digest` the body is the whole blob, with `mount` there is one elsewhere."""
        name = request.match_info["name"]
        if mount := request.query.get("mount"):
            source = request.query.get("from", "")
            if is_digest(mount) and source and self._storage.has_blob(source, mount):
                await asyncio.to_thread(self._storage.link_blob, name, mount)
                return self._created(name, mount)
        upload = self._storage.start_upload(name)
        if digest := request.query.get("digest"):
            await self._append(request, upload)
            return await self._finish(name, upload, digest)
        return self._accepted(name, upload, 0)

    async def append(self, request: web.Request) -> web.Response:
        """PATCH: add a chunk at the end."""
        name, upload = request.match_info["name"], request.match_info["upload"]
        return self._accepted(name, upload, await self._append(request, upload))

    async def finish(self, request: web.Request) -> web.Response:
        """PUT: add what the body holds, if anything, and make it a blob."""
        name, upload = request.match_info["name"], request.match_info["upload"]
        digest = request.query.get("digest", "")
        if not is_digest(digest):
            raise failures.digest_invalid(f"digest: missing or invalid: {digest[:255]!r}")
        await self._append(request, upload)
        return await self._finish(name, upload, digest)

    async def status(self, request: web.Request) -> web.Response:
        name, upload = request.match_info["name"], request.match_info["upload"]
        size = self._storage.upload_path(upload).stat().st_size
        return web.Response(status=204, headers=self._upload_headers(name, upload, size))

    async def cancel(self, request: web.Request) -> web.Response:
        self._storage.upload_path(request.match_info["upload"]).unlink()
        return web.Response(status=204, headers=API_VERSION)

    async def _append(self, request: web.Request, upload: str) -> int:
        """Write the body at the end of an upload; return the size so far.

        A body that breaks off leaves its upload at the size it had before: the client may send it again.
        """
        path = self._storage.upload_path(upload)
        if upload in self._busy:
            raise Refusal("BLOB_UPLOAD_INVALID", errors.Aborted(f"upload {upload} is being written to"))
        start = path.stat().st_size
        _check_range(request.headers.get("Content-Range", ""), start)
        self._busy.add(upload)
        try:
            return await _write_body(request, path, start)
        finally:
            self._busy.discard(upload)

    async def _finish(self, name: str, upload: str, digest: str) -> web.Response:
        await asyncio.to_thread(self._storage.finish_upload, name, upload, digest)
        return self._created(name, digest)

    def _created(self, name: str, digest: str) -> web.Response:
        headers = {**API_VERSION, DIGEST: digest, "Location": f"/v2/{name}/blobs/{digest}"}
        return web.Response(status=201, headers=headers)

    def _accepted(self, name: str, upload: str, size: int) -> web.Response:
        return web.Response(status=202, headers=self._upload_headers(name, upload, size))

    def _upload_headers(self, name: str, upload: str, size: int) -> dict[str, str]:
        return {
            **API_VERSION,
            "Location": f"/v2/{name}/blobs/uploads/{upload}",
            "Range": f"0-{max(0, size - 1)}",
            UPLOAD_ID: upload,
        }


async def _write_body(request: web.Request, path: Path, start: int) -> int:
    with path.open("r+b") as file:
        file.seek(start)
        try:
            async for chunk in request.content.iter_any():
                file.write(chunk)
        except BaseException:
            file.truncate(start)
            raise
        return file.tell()


def _check_range(header: str, start: int) -> None:
    """Refuse a chunk that does not go where the last one ended; `START-END`, with or without a unit."""
    if not header:
        return
    first = header.removeprefix("bytes").strip(" =").partition("-")[0]
    if not first.isdecimal() or int(first) != start:
        raise Refusal(
            "BLOB_UPLOAD_INVALID", errors.OutOfRange(f"chunk begins at {first[:20]}, expected {start}")
        )
