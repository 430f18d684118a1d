"""/volumes: list, create, inspect, remove, prune."""

from __future__ import annotations

import asyncio

from aiohttp import web

from cutaway.engine.api import body, version
from cutaway.engine.api.container_filters import label_matches
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.pruning import conditions
from cutaway.engine.api.volume_request import VolumeRequest
from cutaway.engine.timestamps import rfc3339
from cutaway.engine.volumes import Volume, folder_size
from cutaway.errors import FailedPrecondition

_LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})


def routes() -> list[web.RouteDef]:
    return [
        web.get("/volumes", listing),
        web.post("/volumes/create", create),
        web.post("/volumes/prune", prune),
        web.get("/volumes/{name}", inspect),
        web.delete("/volumes/{name}", remove),
    ]


def view(volume: Volume) -> dict[str, object]:
    """A volume as list and inspect show it."""
    return {
        "CreatedAt": rfc3339(volume.created_ns // 1_000_000_000 * 1_000_000_000),
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(volume.path),
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }


async def listing(request: web.Request) -> web.Response:
    given = body.filters(request)
    body.check_filters(given, _LIST_FILTERS)
    store = daemon_of(request).volumes
    found = [v for v in store.list() if _matches(v, given, bool(store.users(v.name)))]
    return body.json_response({"Volumes": [view(volume) for volume in found], "Warnings": None})


def _matches(volume: Volume, given: dict[str, list[str]], used: bool) -> bool:
    if "name" in given and not any(value in volume.name for value in given["name"]):
        return False
    if "driver" in given and "local" not in given["driver"]:
        return False
    if "dangling" in given and (given["dangling"][0].lower() in ("1", "true")) == used:
        return False
    return all(label_matches(volume.labels, value) for value in given.get("label", []))


async def create(request: web.Request) -> web.Response:
    wanted = await body.read(request, VolumeRequest, optional=True)
    volume, _ = daemon_of(request).volumes.create(
        wanted.name, driver=wanted.driver, labels=wanted.labels, options=wanted.driver_opts
    )
    return body.json_response(view(volume), status=201)


async def inspect(request: web.Request) -> web.Response:
    return body.json_response(view(daemon_of(request).volumes.get(request.match_info["name"])))


async def remove(request: web.Request) -> web.Response:
    daemon_of(request).volumes.remove(request.match_info["name"], force=body.flag(request, "force"))
    return body.no_content()


async def prune(request: web.Request) -> web.Response:
    """Remove unused volumes without a name; with all=1, those with one too."""
    given = body.filters(request)
    body.check_filters(given, _PRUNE_FILTERS)
    store = daemon_of(request).volumes
    everything = _everything(request, given)
    wanted = conditions({key: values for key, values in given.items() if key != "all"}, _PRUNE_FILTERS)
    deleted: list[str] = []
    reclaimed = 0
    for volume in store.list():
        if store.users(volume.name) or not (volume.anonymous or everything):
            continue
        if not wanted.meets(0, volume.labels):
            continue
        size = await asyncio.to_thread(folder_size, volume.path)
        try:
            store.remove(volume.name)
        except FailedPrecondition:
            continue  # taken by a container meanwhile
        deleted.append(volume.name)
        reclaimed += size
    return body.json_response({"VolumesDeleted": deleted or None, "SpaceReclaimed": reclaimed})


def _everything(request: web.Request, given: dict[str, list[str]]) -> bool:
    """Whether volumes with a name go as well; before API 1.42 they always did."""
    asked = given.get("all", ["false"])[:1] in (["true"], ["1"])
    return asked or version.of(request) < (1, 42)
