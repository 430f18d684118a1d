"""Blobs as streams: size and digest checked while they pass, and taken up again after a cut."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import aiohttp

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client.client import Repository
from cutaway.registry.client.failures import one_line
from cutaway.registry.client.retries import pause
from cutaway.registry.client.transport import broken
from cutaway.trace import spans
from cutaway.trace.context import SpanContext

CHUNK: Final = 1 << 20  # bytes at most in one piece
PROGRESS: Final = 16 << 20  # bytes; a connection that brings as much before it breaks costs no attempt


async def stream(repository: Repository, descriptor: Descriptor) -> AsyncIterator[bytes]:
    """The bytes of a blob, in order, in pieces of at most 1 MiB.

    The last piece is given before the digest of the whole is known, so whoever stores them must not call
    them complete before the iteration has ended: it ends with `DataLoss` when size or digest are not as
    the descriptor says. No more than the declared size is ever read. A connection that breaks is taken
    up where it broke, after a pause, up to five times without much progress between them.
    """
    settings = repository.client.settings
    digester = hashlib.new(descriptor.digest.partition(":")[0])
    download = _Download(repository, descriptor)
    done, resumes, failures, mark = 0, 0, 0, 0
    span = spans.span("blob", digest=descriptor.digest, size=descriptor.size)
    try:
        while True:
            try:
                async for piece in download.from_offset(done, span.context):
                    digester.update(piece)
                    done += len(piece)
                    yield piece
            except _Cut as cut:
                resumes += 1
                failures, mark = (0, done) if done - mark >= PROGRESS else (failures + 1, mark)
                if failures > settings.max_resumes:
                    raise errors.DataLoss(
                        f"blob {descriptor.digest} was cut at {done} of {descriptor.size} bytes: {cut}"
                    ) from cut
                await asyncio.sleep(pause(settings.retry_delays, failures))
                continue
            break
        actual = f"{digester.name}:{digester.hexdigest()}"
        if actual != descriptor.digest:
            raise errors.DataLoss(f"filesystem layer verification failed for digest {descriptor.digest}")
    except errors.CutawayError as error:
        span.error = str(error)
        raise
    finally:
        span.set(bytes=done, resumed=resumes)
        span.finish()


class _Cut(Exception):
    """The connection ended before the blob did."""


@dataclass
class _Download:
    """A blob on its way, over as many connections as it takes."""

    repository: Repository
    descriptor: Descriptor
    etag: str = ""
    """The strong validator that came with the first bytes."""

    async def from_offset(self, offset: int, parent: SpanContext) -> AsyncIterator[bytes]:
        """The rest of the blob from an offset; raises `_Cut` when there is less of it than there should."""
        path, headers = f"blobs/{self.descriptor.digest}", self._headers(offset)
        try:
            async with self.repository.request(
                "GET", path, headers, accepted=(200, 206), parent=parent
            ) as response:
                if not offset:
                    self.etag = _strong(response.headers.get("ETag", ""))
                async for piece in self._body(response, offset):
                    yield piece
        except errors.Unavailable as error:
            if not offset:
                raise
            raise _Cut(str(error)) from error

    def _headers(self, offset: int) -> dict[str, str]:
        if not offset:
            return {}
        # Of something else than what we have the start of, the server is to send all.
        validator = {"If-Range": self.etag} if self.etag else {}
        return {"Range": f"bytes={offset}-", **validator}

    async def _body(self, response: aiohttp.ClientResponse, offset: int) -> AsyncIterator[bytes]:
        descriptor, left = self.descriptor, self.descriptor.size - offset
        skip = _to_skip(response, descriptor, offset)
        _check_length(response, descriptor, left + skip)
        try:
            async for chunk in response.content.iter_chunked(CHUNK):
                piece = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if len(piece) > left:
                    raise errors.DataLoss(f"blob {descriptor.digest} is longer than {descriptor.size} bytes")
                left -= len(piece)
                if piece:
                    yield piece
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise _Cut(broken(error)) from error
        if left:
            raise _Cut("unexpected EOF")


def _to_skip(response: aiohttp.ClientResponse, descriptor: Descriptor, offset: int) -> int:
    """How many bytes of this answer are known already: a server that ignores ranges starts afresh."""
    if response.status != 206:
        return offset
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {offset}-"):
        raise errors.DataLoss(
            f"blob {descriptor.digest}: asked for what follows byte {offset}, "
            f"got {one_line(given) or 'no range'}"
        )
    return 0


def _strong(etag: str) -> str:
    """An ETag that If-Range may carry: a quoted one, and not a weak one."""
    return etag if len(etag) > 2 and etag[0] == etag[-1] == '"' and etag.isprintable() else ""


def _check_length(response: aiohttp.ClientResponse, descriptor: Descriptor, expected: int) -> None:
    length = response.content_length
    if length is not None and length != expected:
        raise errors.DataLoss(
            f"blob {descriptor.digest}: the registry sends {length} bytes, expected {expected}"
        )
