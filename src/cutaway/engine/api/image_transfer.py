"""Engine API, images on their way in and out other than by a pull: load, save, push."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from aiohttp import web

from cutaway import errors
from cutaway.engine.api.auth_config import credentials_of
from cutaway.engine.api.body import flag
from cutaway.engine.api.middleware import streaming, traced
from cutaway.engine.api.progress import streamed
from cutaway.engine.images.progress import Progress
from cutaway.engine.images.service import ImageService
from cutaway.registry import reference

PIECE = 1 << 20  # bytes

Tell = Callable[[str, str, dict[str, str]], None]
"""Told of each change as action (pull, tag, untag, delete...), object ID and attributes: an image event."""


def routes(images: ImageService, tell: Tell) -> list[web.RouteDef]:
    """The routes, without version prefix; `tell` hears of every change."""

    @streaming
    @traced
    async def load(request: web.Request) -> web.StreamResponse:
        quiet = flag(request, "quiet")

        async def work(report: Progress) -> None:
            for loaded in await images.load(pieces_of(request), report, quiet=quiet):
                tell("load", loaded.image.id, {"name": loaded.image.id})

        return await streamed(request, work, always_well=True)

    @streaming
    @traced
    async def push(request: web.Request) -> web.StreamResponse:
        named, credentials = _pushed(request), credentials_of(request)

        async def work(report: Progress) -> None:
            for tag in await images.push(named, credentials, report):
                tell("push", tag.familiar, {"name": tag.familiar_name})

        return await streamed(request, work)

    @streaming
    async def save(request: web.Request) -> web.StreamResponse:
        return await _save(request, request.query.getall("names", []))

    @streaming
    async def save_one(request: web.Request) -> web.StreamResponse:
        return await _save(request, [request.match_info["name"]])

    async def _save(request: web.Request, names: Sequence[str]) -> web.StreamResponse:
        pieces = await images.save(names, lambda image_id: tell("save", image_id, {"name": image_id}))
        return await send_tar(request, pieces)

    return [
        web.post("/images/load", load),
        web.get("/images/get", save),
        web.get("/images/{name:.+}/get", save_one),
        web.post("/images/{name:.+}/push", push),
    ]


def pieces_of(request: web.Request) -> AsyncIterator[bytes]:
    """The request's body as it comes."""
    return request.content.iter_chunked(PIECE)


async def send_tar(
    request: web.Request,
    pieces: AsyncIterator[bytes],
    content_type: str = "application/x-tar",
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """A tar file as the answer. After the first byte a failure can only cut it off."""
    first = await anext(aiter(pieces), b"")  # what fails at once has a status
    response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
    response.enable_chunked_encoding()
    await response.prepare(request)
    try:
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
    except errors.CutawayError:
        if request.transport is not None:
            request.transport.abort()  # the client must not take it for whole
        raise
    await response.write_eof()
    return response


def _pushed(request: web.Request) -> reference.Reference:
    """What to push: a tag in the query, or else in the name; without one, all tags."""
    named = reference.parse(request.match_info["name"])
    if named.digest:
        raise errors.InvalidArgument("cannot push a digest reference")
    tag = request.query.get("tag", "")
    return named.with_tag(tag) if tag else named
