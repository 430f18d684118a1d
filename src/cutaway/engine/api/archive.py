"""/containers/{id}/archive and /changes: `docker cp` and `docker diff`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Final

import aiohttp
from aiohttp import web

from cutaway.archive.entries import PIECE, Source
from cutaway.engine.api import body
from cutaway.engine.api.containers import container_of
from cutaway.engine.api.image_transfer import pieces_of, send_tar
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.middleware import streaming
from cutaway.engine.containers import diff
from cutaway.engine.containers.archive import Archiver, PathStat
from cutaway.engine.threads import finished
from cutaway.engine.timestamps import rfc3339
from cutaway.errors import Cancelled, InvalidArgument, Unknown
from cutaway.oci.archive.spool import MAGIC_SIZE, Decompressed, compression_of

STAT_HEADER: Final = "X-Docker-Container-Path-Stat"
_EPOCH: Final = "1970-01-01T00:00:00Z"


def routes() -> list[web.RouteDef]:
    """The routes, without version prefix; GET is also HEAD."""
    one = "/containers/{id}"
    return [
        web.get(f"{one}/archive", get),
        web.put(f"{one}/archive", put),
        web.get(f"{one}/changes", changes),
    ]


@streaming
async def get(request: web.Request) -> web.StreamResponse:
    """A path as a tar file; of HEAD only what it is."""
    path, daemon, container = _path(request), daemon_of(request), container_of(request)
    async with Archiver(daemon.containers.parts).open(container, request.match_info["id"]) as tree:
        if request.method == "HEAD":
            found = await finished(tree.stat, path)
            return web.Response(headers={STAT_HEADER: _encoded(found)})
        found, pieces = await finished(tree.pack, path)
        async with aclosing(_streamed(pieces)) as stream:
            response = await send_tar(request, stream, headers={STAT_HEADER: _encoded(found)})
    daemon.events.container(container, "archive-path")
    return response


async def put(request: web.Request) -> web.Response:
    """Extract a tar file, compressed or not, into a directory."""
    path, daemon, container = _path(request), daemon_of(request), container_of(request)
    source = _Body(pieces_of(request))
    keep_types, as_user = body.flag(request, "noOverwriteDirNonDir"), body.flag(request, "copyUIDGID")
    async with Archiver(daemon.containers.parts).open(container, request.match_info["id"]) as tree:

        def work() -> None:
            tree.unpack(path, _plain(source), keep_types=keep_types, as_user=as_user)
            source.drain()

        await finished(work)
    daemon.events.container(container, "extract-to-dir")
    return web.Response()


async def changes(request: web.Request) -> web.Response:
    daemon, container = daemon_of(request), container_of(request)
    mounts = await daemon.runtime.snapshot_mounts(container.id)
    try:
        found = await finished(diff.changes, mounts)
    except OSError as error:
        raise Unknown(f"changes of {container.name}: {error.strerror}") from None
    return body.json_response([{"Path": one.path, "Kind": int(one.kind)} for one in found] or None)


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: 'path' cannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: 'path' has a zero byte in it")
    return path


def _encoded(found: PathStat) -> str:
    value = {
        "name": found.name,
        "size": found.size,
        "mode": found.mode,
        "mtime": rfc3339(found.mtime_ns) if found.mtime_ns > 0 else _EPOCH,
        "linkTarget": found.link_target,
    }
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


async def _streamed(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """A blocking generator's pieces, each made in a thread."""
    try:
        while piece := await finished(next, pieces, b""):
            yield piece
    finally:
        pieces.close()  # type: ignore[attr-defined]  # a generator: it closes what it reads from


class _Body:
    """A request's body as a thread reads it, piece by piece, so that no more than one is in memory."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._loop = asyncio.get_running_loop()
        self._ahead = b""

    def read(self, size: int = -1, /) -> bytes:
        """Up to so many bytes, none at the end. Raises `Cancelled` when the client is gone."""
        data = self._ahead or asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if size < 0:
            size = len(data)
        self._ahead = data[size:]
        return data[:size]

    async def _next(self) -> bytes:
        try:
            return await anext(self._pieces, b"")
        except (OSError, aiohttp.ClientError, web.RequestPayloadError):
            raise Cancelled("the client has gone before the end of its archive") from None

    def drain(self) -> None:
        """Read what comes after the archive's end: tar fills up to whole records."""
        while self.read(PIECE):
            pass

    def unread(self, data: bytes) -> None:
        self._ahead = data + self._ahead


def _plain(source: _Body) -> Source:
    """The body, decompressed if it is gzip, bzip2, xz or zstd."""
    head = b""
    while len(head) < MAGIC_SIZE and (data := source.read(PIECE)):
        head += data
    source.unread(head)
    kind = compression_of(head)
    return Decompressed(source, kind) if kind else source
