"""Blobs as streams: size and digest checked while they pass, and taken up again after a cut."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Final

import aiohttp

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client.client import Repository
from cutaway.registry.client.transport import broken
from cutaway.trace import spans
from cutaway.trace.context import SpanContext

CHUNK: Final = 1 << 20  # bytes at most in one piece
MAX_RESUMES: Final = 5


async def stream(repository: Repository, descriptor: Descriptor) -> AsyncIterator[bytes]:
    """The bytes of a blob, in order, in pieces of at most 1 MiB.

    The last piece is given before the digest of the whole is known, so whoever stores them must not call
    them complete before the iteration has ended: it ends with `DataLoss` when size or digest are not as
    the descriptor says. No more than the declared size is ever read. A connection that breaks is taken
    up where it broke, up to five times.
    """
    digester = hashlib.new(descriptor.digest.partition(":")[0])
    done, resumes = 0, 0
    span = spans.span("blob", digest=descriptor.digest, size=descriptor.size)
    try:
        while True:
            try:
                async for piece in _from_offset(repository, descriptor, done, span.context):
                    digester.update(piece)
                    done += len(piece)
                    yield piece
            except _Cut as cut:
                if (resumes := resumes + 1) > MAX_RESUMES:
                    raise errors.DataLoss(
                        f"blob {descriptor.digest} was cut at {done} of {descriptor.size} bytes: {cut}"
                    ) from cut
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


async def _from_offset(
    repository: Repository, descriptor: Descriptor, offset: int, parent: SpanContext
) -> AsyncIterator[bytes]:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    path = f"blobs/{descriptor.digest}"
    async with repository.request("GET", path, headers, accepted=(200, 206), parent=parent) as response:
        # A server that ignores ranges starts afresh: pass over what we have.
        skip = 0 if _starts_at(response, offset) else offset
        left = descriptor.size - offset
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


def _starts_at(response: aiohttp.ClientResponse, offset: int) -> bool:
    if response.status != 206:
        return offset == 0
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _check_length(response: aiohttp.ClientResponse, descriptor: Descriptor, expected: int) -> None:
    length = response.content_length
    if length is not None and length != expected:
        raise errors.DataLoss(
            f"blob {descriptor.digest}: the registry sends {length} bytes, expected {expected}"
        )
