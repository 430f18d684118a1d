"""Engine API, images: pull, list, inspect, history, tag, remove.

Source: moby's API description, sections Image; texts and statuses are Docker's.
"""

from __future__ import annotations

from aiohttp import web

from cutaway import errors
from cutaway.engine.api import body, image_transfer, search
from cutaway.engine.api.auth_config import AuthConfig, credentials_of
from cutaway.engine.api.body import filters, flag, json_response
from cutaway.engine.api.image_making import import_tar
from cutaway.engine.api.image_transfer import Tell
from cutaway.engine.api.middleware import streaming, traced
from cutaway.engine.api.progress import streamed
from cutaway.engine.images.progress import Progress
from cutaway.engine.images.remove import Users
from cutaway.engine.images.service import ImageService
from cutaway.registry import reference
from cutaway.registry.client.platforms import parse_platform
from cutaway.registry.reference import Reference


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
        *image_transfer.routes(images, tell),
        web.post("/auth", handler.log_in),
        web.post("/images/create", create),
        web.get("/images/json", handler.list),
        web.get("/images/search", handler.search),
        web.get("/images/{name:.+}/json", handler.inspect),
        web.get("/images/{name:.+}/history", handler.history),
        web.post("/images/{name:.+}/tag", handler.tag),
        web.delete("/images/{name:.+}", handler.remove),
    ]


class _Handler:
    def __init__(self, images: ImageService, users: Users, tell: Tell) -> None:
        self._images = images
        self._users = users
        self._tell = tell

    async def create(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query.get("fromSrc"):
            return await import_tar(request, self._images, self._tell)
        named = pull_reference(query.get("fromImage", ""), query.get("tag", ""))
        platform = parse_platform(query["platform"]) if query.get("platform") else None
        credentials = credentials_of(request)

        async def pull(report: Progress) -> None:
            if named.tag or named.digest:
                await self._images.pull(named, platform, credentials, report)
            else:
                await self._images.pull_all(named, platform, credentials, report)
            self._tell("pull", named.familiar, {"name": named.familiar_name})

        return await streamed(request, pull)

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
        return await search.answer(request, self._images.search, credentials_of(request))

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


def pull_reference(image: str, tag: str) -> Reference:
    """The reference of `fromImage` and `tag`, where `tag` may be a digest and either may hold it all.

    Without any tag, all of the repository's are meant.
    """
    if not image:
        raise errors.InvalidArgument("invalid reference format")
    named = reference.parse(image.removesuffix(":") if tag else image)
    if not tag:
        return named
    return named.with_digest(tag) if ":" in tag else named.with_tag(tag)
