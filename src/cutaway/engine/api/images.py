"""Engine API, images: pull, list, inspect, history, tag, remove.

Source: moby's API description, sections Image; texts and statuses are Docker's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.engine.api import body, search
from cutaway.engine.api.auth_config import AuthConfig
from cutaway.engine.api.body import filters, flag, json_response
from cutaway.engine.api.middleware import streaming, traced
from cutaway.engine.images.progress import Event
from cutaway.engine.images.remove import Users
from cutaway.engine.images.service import ImageService
from cutaway.oci.document import decode
from cutaway.oci.image_spec import Platform
from cutaway.registry import reference
from cutaway.registry.client.platforms import parse_platform
from cutaway.registry.client.settings import ANONYMOUS, Credentials
from cutaway.registry.reference import Reference

MAX_AUTH: Final = 64 << 10  # characters of an X-Registry-Auth header
POLL: Final = 1.0  # seconds between two looks at whether the client is still there

Tell = Callable[[str, str, dict[str, str]], None]
"""Told of each change as action (pull, tag, untag, delete), object ID and attributes: an image event."""


def _tell_nobody(action: str, object_id: str, attributes: dict[str, str]) -> None:
    """For routes without an event stream."""


def routes(
    images: ImageService, *, users: Users = lambda image_id: [], tell: Tell = _tell_nobody
) -> list[web.RouteDef]:
    """The routes, without version prefix.

    `users` lists the containers that use the image of an ID; `tell` hears of every change.
    """
    handler = _Handler(images, users, tell)

    @streaming
    @traced
    async def create(request: web.Request) -> web.StreamResponse:
        return await handler.create(request)

    return [
        web.post("/auth", handler.log_in),
        web.post("/images/create", create),
        web.get("/images/json", handler.list),
        web.get("/images/search", handler.search),
        web.get("/images/get", handler.unsupported),
        web.post("/images/load", handler.unsupported),
        web.post("/images/prune", handler.unsupported),
        web.get("/images/{name:.+}/json", handler.inspect),
        web.get("/images/{name:.+}/history", handler.history),
        web.get("/images/{name:.+}/get", handler.unsupported),
        web.post("/images/{name:.+}/tag", handler.tag),
        web.post("/images/{name:.+}/push", handler.unsupported),
        web.delete("/images/{name:.+}", handler.remove),
    ]


class _Handler:
    def __init__(self, images: ImageService, users: Users, tell: Tell) -> None:
        self._images = images
        self._users = users
        self._tell = tell

    async def create(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if "fromSrc" in query:
            raise errors.Unimplemented("importing an image (fromSrc) is not supported yet")
        named = pull_reference(query.get("fromImage", ""), query.get("tag", ""))
        platform = parse_platform(query["platform"]) if query.get("platform") else None
        credentials = _login(request)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        pull = asyncio.create_task(self._pull(named, platform, credentials, events))
        try:
            return await _stream(request, events, pull)
        finally:
            if not pull.done():
                pull.cancel()
                await asyncio.wait((pull,))

    async def _pull(
        self,
        named: Reference,
        platform: Platform | None,
        credentials: Credentials,
        events: asyncio.Queue[Event | None],
    ) -> None:
        try:
            await self._images.pull(named, platform, credentials, events.put_nowait)
            self._tell("pull", named.familiar, {"name": named.familiar_name})
        finally:
            events.put_nowait(None)  # the end

    async def log_in(self, request: web.Request) -> web.Response:
        given = await body.read(request, AuthConfig)
        token = await self._images.log_in(given.serveraddress or "", given.credentials)
        return json_response({"IdentityToken": token, "Status": "Login Succeeded"})

    async def list(self, request: web.Request) -> web.Response:
        wanted = filters(request)
        if old := request.query.get("filter"):  # before API 1.41
            wanted["reference"] = [old]
        return json_response(await self._images.list(wanted))

    async def search(self, request: web.Request) -> web.Response:
        return await search.answer(request, self._images.search, _login(request))

    async def inspect(self, request: web.Request) -> web.Response:
        return json_response(await self._images.inspect(request.match_info["name"]))

    async def history(self, request: web.Request) -> web.Response:
        return json_response(await self._images.history(request.match_info["name"]))

    async def tag(self, request: web.Request) -> web.Response:
        repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
        image = await self._images.resolve(request.match_info["name"])
        named = await self._images.tag(image.id, repository, tag)
        self._tell("tag", image.id, {"name": named.familiar})
        return web.Response(status=201)

    async def remove(self, request: web.Request) -> web.Response:
        removed = await self._images.remove(
            request.match_info["name"],
            force=flag(request, "force"),
            prune=not flag(request, "noprune"),
            users=self._users,
            tell=lambda action, image_id: self._tell(action, image_id, {"name": image_id}),
        )
        return json_response(removed)

    async def unsupported(self, request: web.Request) -> web.Response:
        raise errors.Unimplemented(f"{request.method} {request.path} is not supported yet")


async def _stream(
    request: web.Request, events: asyncio.Queue[Event | None], pull: asyncio.Task[None]
) -> web.StreamResponse:
    """Send each step as a line of JSON; a failure before the first one becomes a status instead."""
    response: web.StreamResponse | None = None
    while (event := await _next(request, events)) is not None:
        response = response or await _open(request)
        await response.write(_line(event))
    try:
        await pull
    except errors.CutawayError as error:
        if response is None:
            raise
        await response.write(_line({"errorDetail": {"message": str(error)}, "error": str(error)}))
    response = response or await _open(request)
    await response.write_eof()
    return response


async def _next(request: web.Request, events: asyncio.Queue[Event | None]) -> Event | None:
    """The next step, or None after the last; raises once the client has gone, even in a long silence."""
    while True:
        try:
            return await asyncio.wait_for(events.get(), POLL)
        except TimeoutError:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has gone") from None


async def _open(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\r\n"


def pull_reference(image: str, tag: str) -> Reference:
    """The reference of `fromImage` and `tag`, where `tag` may be a digest and either may hold it all."""
    if not image:
        raise errors.InvalidArgument("invalid reference format")
    named = reference.parse(image.removesuffix(":") if tag else image)
    if not tag:
        return named.with_default_tag()
    return named.with_digest(tag) if ":" in tag else named.with_tag(tag)


def _login(request: web.Request) -> Credentials:
    return decode_auth(request.headers.get("X-Registry-Auth", ""))


def decode_auth(header: str) -> Credentials:
    """The credentials in an X-Registry-Auth header: base64url of a JSON object, all of it optional."""
    if not header:
        return ANONYMOUS
    if len(header) > MAX_AUTH:
        raise errors.InvalidArgument("X-Registry-Auth: header too long")
    try:
        padded = header.strip().rstrip("=")
        raw = base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
        value = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        raise errors.InvalidArgument("X-Registry-Auth: not the base64 of a JSON object") from None
    return decode(AuthConfig, value, "X-Registry-Auth").credentials
