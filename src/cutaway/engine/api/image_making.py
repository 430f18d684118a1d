"""Engine API, images made here: POST /images/create?fromSrc=, POST /commit, GET /containers/ID/export."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import aiohttp
from aiohttp import web

from cutaway.engine.api.body import flag, json_response
from cutaway.engine.api.image_transfer import Tell, pieces_of, send_tar
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.middleware import streaming, traced
from cutaway.engine.api.progress import streamed
from cutaway.engine.containers.config import Config, words
from cutaway.engine.containers.model import Container, Status
from cutaway.engine.images import Image
from cutaway.engine.images.changes import apply
from cutaway.engine.images.compose import Made
from cutaway.engine.images.progress import Progress, status
from cutaway.engine.images.service import ImageService
from cutaway.errors import InvalidArgument, NotFound, Unavailable
from cutaway.oci.document import decode
from cutaway.oci.image_spec import ContainerConfig
from cutaway.registry import reference
from cutaway.registry.client.platforms import parse_platform
from cutaway.registry.reference import Reference

MAX_BODY: Final = 1 << 20  # bytes of a configuration
CONNECT_SECONDS: Final = 30.0


def routes() -> list[web.RouteDef]:
    """The routes, without version prefix."""
    return [web.post("/commit", commit), web.get("/containers/{id}/export", export)]


# Import


async def import_tar(request: web.Request, images: ImageService, tell: Tell) -> web.StreamResponse:
    """Answer a create request that has `fromSrc`."""
    query = request.query
    platform = parse_platform(query["platform"]) if query.get("platform") else images.settings.platform
    made = Made(
        settings=apply(ContainerConfig(), query.getall("changes", [])),
        platform=platform,
        names=_names(query.get("repo", ""), query.get("tag", "")),
        comment=query.get("message", "") or f"Imported from {query['fromSrc']}",
    )

    async def work(report: Progress) -> None:
        source = query["fromSrc"]
        pieces = pieces_of(request) if source == "-" else _download(source)
        image = await images.composer.import_tar(pieces, made)
        tell("import", image.id, {"name": image.id})
        report(status(image.id))

    return await streamed(request, work)


def _names(repository: str, tag: str) -> tuple[Reference, ...]:
    if not repository:
        return ()
    named = reference.parse(repository)
    if named.digest:
        raise InvalidArgument("cannot import digest reference")
    return (named.with_tag(tag) if tag else named.with_default_tag(),)


async def _download(source: str) -> AsyncIterator[bytes]:
    """A file from the web. Raises `InvalidArgument`, `Unavailable`."""
    url = source if "://" in source else f"http://{source}"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"{source}: only http and https can be imported from")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(trust_env=True, timeout=timeout) as session,
            session.get(url) as response,
        ):
            if response.status >= 400:
                raise Unavailable(f"failed to GET {url} with status {response.status} {response.reason}")
            async for piece in response.content.iter_chunked(1 << 20):
                yield piece
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable(f'Get "{url}": {str(error) or type(error).__name__}') from None


# Commit and export


@traced
async def commit(request: web.Request) -> web.Response:
    daemon, query = daemon_of(request), request.query
    container = daemon.containers.get(query.get("container", ""))
    settings = _merged(await _config_in(request), image_defaults(container.config))
    apply(settings, query.getall("changes", []))
    names = _names(query.get("repo", ""), query.get("tag", ""))
    base = await _base(daemon.images, container)
    made = Made(
        settings=settings,
        platform=base.platform if base else daemon.images.settings.platform,
        names=names,
        author=query.get("author", ""),
        comment=query.get("comment", ""),
        created_by=" ".join(container.path_and_args),
    )
    async with AsyncExitStack() as after:
        running = container.state.status is Status.RUNNING
        if running and flag(request, "pause", default=True):
            await after.enter_async_context(daemon.containers.control.frozen(container))
        mounts = await daemon.runtime.snapshot_mounts(container.id)
        image = await daemon.images.composer.commit(base, mounts, made)
    told = {"comment": made.comment, "imageID": image.id, "imageRef": names[0].familiar if names else ""}
    daemon.events.container(container, "commit", **told)
    for named in names:
        daemon.tell_image("tag", image.id, {"name": named.familiar})
    return json_response({"Id": image.id}, status=201)


async def _config_in(request: web.Request) -> ContainerConfig:
    """The configuration in the body, which may lack it or be null."""
    raw = await request.read()
    if len(raw) > MAX_BODY:
        raise InvalidArgument(f"configuration of more than {MAX_BODY} bytes")
    try:
        value = json.loads(raw) if raw.strip() else None
    except (ValueError, RecursionError):
        raise InvalidArgument("invalid JSON in the request body") from None
    return image_defaults(decode(Config, value or {}, "request body"))


async def _base(images: ImageService, container: Container) -> Image | None:
    """The container's image, if it is still here."""
    try:
        return await images.resolve(container.image_id)
    except NotFound:
        return None


def image_defaults(config: Config) -> ContainerConfig:
    """What of a container's configuration an image can hold."""
    return ContainerConfig(
        user=config.user or None,
        exposed_ports=config.exposed_ports or None,
        env=list(config.env or []) or None,
        entrypoint=words(config.entrypoint) or None,
        cmd=words(config.cmd) or None,
        volumes=config.volumes or None,
        working_dir=config.working_dir or None,
        labels=dict(config.labels or {}) or None,
        stop_signal=config.stop_signal,
        healthcheck=config.healthcheck,
        on_build=config.on_build,
        shell=config.shell,
    )


def _merged(changed: ContainerConfig, under: ContainerConfig) -> ContainerConfig:
    """What was changed, and from the container all that was not."""
    names = {entry.partition("=")[0] for entry in changed.env or []}
    env = [*(changed.env or []), *(e for e in under.env or [] if e.partition("=")[0] not in names)]
    keeps_command = changed.entrypoint is None and changed.cmd is None
    return ContainerConfig(
        user=changed.user or under.user,
        exposed_ports={**(under.exposed_ports or {}), **(changed.exposed_ports or {})} or None,
        env=env or None,
        entrypoint=changed.entrypoint if changed.entrypoint is not None else under.entrypoint,
        cmd=under.cmd if keeps_command else changed.cmd,
        volumes={**(under.volumes or {}), **(changed.volumes or {})} or None,
        working_dir=changed.working_dir or under.working_dir,
        labels={**(under.labels or {}), **(changed.labels or {})} or None,
        stop_signal=changed.stop_signal or under.stop_signal,
        healthcheck=changed.healthcheck or under.healthcheck,
        on_build=changed.on_build or under.on_build,
        shell=changed.shell or under.shell,
    )


@streaming
async def export(request: web.Request) -> web.StreamResponse:
    daemon = daemon_of(request)
    container = daemon.containers.get(request.match_info["id"])
    mounts = await daemon.runtime.snapshot_mounts(container.id)
    response = await send_tar(
        request, daemon.images.composer.export(mounts), content_type="application/octet-stream"
    )
    daemon.events.container(container, "export")
    return response
