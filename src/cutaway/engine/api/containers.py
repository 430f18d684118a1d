"""/containers: create, list, inspect, and what answers at once; container_streams.py has the rest."""

from __future__ import annotations

import asyncio

from aiohttp import web

from cutaway.engine.api import body, container_filters, container_views, version
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.middleware import streaming, traced
from cutaway.engine.api.pruning import conditions
from cutaway.engine.api.top import process_table
from cutaway.engine.containers.config import CreateRequest
from cutaway.engine.containers.model import Container
from cutaway.engine.containers.service import WaitCondition
from cutaway.engine.containers.update import UpdateRequest, apply
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, Unimplemented
from cutaway.registry.client.platforms import parse_platform

_PRUNE_FILTERS = frozenset({"label", "label!", "until"})


def routes() -> list[web.RouteDef]:
    """The routes of this resource."""
    one = "/containers/{id}"
    return [
        web.post("/containers/create", create),
        web.get("/containers/json", listing),
        web.post("/containers/prune", prune),
        web.get(f"{one}/json", inspect),
        web.post(f"{one}/start", start),
        web.post(f"{one}/stop", stop),
        web.post(f"{one}/restart", restart),
        web.post(f"{one}/kill", kill),
        web.post(f"{one}/pause", pause),
        web.post(f"{one}/unpause", unpause),
        web.post(f"{one}/rename", rename),
        web.post(f"{one}/resize", resize),
        web.post(f"{one}/update", update),
        web.post(f"{one}/wait", wait),
        web.get(f"{one}/top", top),
        web.delete(one, remove),
    ]


def container_of(request: web.Request) -> Container:
    """The container that the path names. Raises `NotFound`."""
    return daemon_of(request).containers.get(request.match_info["id"])


@traced
async def create(request: web.Request) -> web.Response:
    wanted = await body.read(request, CreateRequest)
    platform = parse_platform(request.query["platform"]) if request.query.get("platform") else None
    containers = daemon_of(request).containers
    container = await containers.create(wanted, request.query.get("name", ""), platform)
    return body.json_response({"Id": container.id, "Warnings": []}, status=201)


async def listing(request: web.Request) -> web.Response:
    daemon = daemon_of(request)
    found = container_filters.select(
        daemon.containers.index,
        body.filters(request),
        everything=body.flag(request, "all"),
        limit=body.integer(request, "limit") or 0,
    )
    sizes = {c.id: await _size(request, c) for c in found} if body.flag(request, "size") else None
    return body.json_response([container_views.list_item(container, sizes) for container in found])


async def _size(request: web.Request, container: Container) -> int:
    try:
        return await daemon_of(request).runtime.snapshot_usage(container.id)
    except CutawayError:
        return 0  # being removed just now


async def inspect(request: web.Request) -> web.Response:
    container = container_of(request)
    size = await _size(request, container) if body.flag(request, "size") else None
    return body.json_response(container_views.inspect(daemon_of(request).parts, container, size))


async def start(request: web.Request) -> web.Response:
    if await request.read():
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    started = await daemon_of(request).containers.start(container_of(request))
    return body.no_content() if started else body.not_modified()


async def stop(request: web.Request) -> web.Response:
    control = daemon_of(request).containers.control
    seconds, signal = body.integer(request, "t"), request.query.get("signal", "")
    stopped = await control.stop(container_of(request), seconds, signal)
    return body.no_content() if stopped else body.not_modified()


async def restart(request: web.Request) -> web.Response:
    seconds, signal = body.integer(request, "t"), request.query.get("signal", "")
    await daemon_of(request).containers.restart(container_of(request), seconds, signal)
    return body.no_content()


async def kill(request: web.Request) -> web.Response:
    container = container_of(request)
    await daemon_of(request).containers.control.kill(container, request.query.get("signal", ""))
    return body.no_content()


async def pause(request: web.Request) -> web.Response:
    await daemon_of(request).containers.control.pause(container_of(request))
    return body.no_content()


async def unpause(request: web.Request) -> web.Response:
    await daemon_of(request).containers.control.unpause(container_of(request))
    return body.no_content()


async def rename(request: web.Request) -> web.Response:
    daemon_of(request).containers.control.rename(container_of(request), request.query.get("name", ""))
    return body.no_content()


async def resize(request: web.Request) -> web.Response:
    width, height = terminal_size(request)
    await daemon_of(request).containers.control.resize(container_of(request), width, height)
    return web.Response()


def terminal_size(request: web.Request) -> tuple[int, int]:
    """Columns and rows. Raises `InvalidArgument` for numbers that no terminal has."""
    height, width = body.integer(request, "h", 0) or 0, body.integer(request, "w", 0) or 0
    for name, value in (("height", height), ("width", width)):
        if not 0 <= value <= 65535:
            raise InvalidArgument(f"invalid resize {name} {value}: expected 0 to 65535")
    return width, height


async def update(request: web.Request) -> web.Response:
    wanted = await body.read(request, UpdateRequest)
    await apply(daemon_of(request).parts, container_of(request), wanted)
    return body.json_response({"Warnings": []})


async def top(request: web.Request) -> web.Response:
    container = container_of(request)
    daemon = daemon_of(request)
    daemon.containers.control.require_running(container)
    pids = await daemon.runtime.pids(container.id)
    titles, rows = await process_table(request.query.get("ps_args", "-ef"), pids)
    return body.json_response({"Processes": rows, "Titles": titles})


async def remove(request: web.Request) -> web.Response:
    if body.flag(request, "link"):
        raise Unimplemented("links between containers are not supported")
    await daemon_of(request).containers.remove(
        container_of(request), force=body.flag(request, "force"), volumes=body.flag(request, "v")
    )
    return body.no_content()


@streaming
async def wait(request: web.Request) -> web.StreamResponse:
    """The headers go out at once: only then does a client send the start (seams.md, trap 1)."""
    condition = request.query.get("condition", "") or WaitCondition.NOT_RUNNING
    if condition not in list(WaitCondition):
        raise InvalidArgument(f'invalid condition: "{condition}"')
    future = daemon_of(request).containers.wait(container_of(request), WaitCondition(condition))
    try:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        code = await future
        text = (
            f'{{"Error":null,"StatusCode":{code}}}\n'
            if version.of(request) < (1, 42)
            else f'{{"StatusCode":{code}}}\n'
        )
        await response.write(text.encode())
        await response.write_eof()
        return response
    finally:
        future.cancel()


async def prune(request: web.Request) -> web.Response:
    """Remove every container that does not run."""
    wanted = conditions(body.filters(request), _PRUNE_FILTERS)
    daemon = daemon_of(request)
    deleted: list[str] = []
    reclaimed = 0
    for container in daemon.containers.index:
        if container.state.is_active or not wanted.meets(container.created_ns, container.config.labels or {}):
            continue
        size = await _size(request, container)
        try:
            await daemon.containers.remove(container)
        except FailedPrecondition:
            continue  # it has been started meanwhile
        deleted.append(container.id)
        reclaimed += size
        await asyncio.sleep(0)
    return body.json_response({"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed})
