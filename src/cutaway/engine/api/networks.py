"""/networks: bridge, host and none, which are always there; making others is not built."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from cutaway.engine.api import body
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.timestamps import rfc3339
from cutaway.errors import NotFound, PermissionDenied, Unimplemented

if TYPE_CHECKING:
    from cutaway.engine.daemon import Daemon
    from cutaway.engine.network import NetworkInfo

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


def routes() -> list[web.RouteDef]:
    return [
        web.get("/networks", listing),
        web.post("/networks/create", unimplemented),
        web.post("/networks/prune", prune),
        web.get("/networks/{name}", inspect),
        web.post("/networks/{name}/connect", unimplemented),
        web.post("/networks/{name}/disconnect", unimplemented),
        web.delete("/networks/{name}", remove),
    ]


def _view(daemon: Daemon, network: NetworkInfo, *, verbose: bool) -> dict[str, object]:
    pool = {"Subnet": network.subnet, "Gateway": network.gateway}
    options = {"com.docker.network.bridge.default_bridge": "true"} if network.driver == "bridge" else {}
    if network.interface:
        options["com.docker.network.bridge.name"] = network.interface
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(daemon.started_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": [pool] if network.subnet else []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": _endpoints(daemon, network) if verbose else {},
        "Options": options,
        "Labels": {},
    }


def _endpoints(daemon: Daemon, network: NetworkInfo) -> dict[str, object]:
    found: dict[str, object] = {}
    for endpoint in network.endpoints:
        container = daemon.containers.index.by_id(endpoint.container_id)
        found[endpoint.container_id] = {
            "Name": container.name if container else "",
            "EndpointID": endpoint.endpoint_id,
            "MacAddress": endpoint.mac,
            "IPv4Address": f"{endpoint.address}/{endpoint.prefix}" if endpoint.address else "",
            "IPv6Address": "",
        }
    return found


async def listing(request: web.Request) -> web.Response:
    daemon, given = daemon_of(request), body.filters(request)
    body.check_filters(given, _FILTERS)
    found = [network for network in daemon.network.networks() if _matches(network, given)]
    return body.json_response([_view(daemon, network, verbose=False) for network in found])


def _matches(network: NetworkInfo, given: dict[str, list[str]]) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: value == network.driver,
        "id": network.id.startswith,
        "name": lambda value: value in network.name,
        "scope": lambda value: value == "local",
        "type": lambda value: value == "builtin",
        "dangling": lambda value: value.lower() in ("0", "false"),
        "label": lambda value: False,
    }
    return all(any(tests[key](value) for value in values) for key, values in given.items())


def _find(request: web.Request) -> NetworkInfo:
    wanted = request.match_info["name"]
    for network in daemon_of(request).network.networks():
        if wanted == network.name or network.id.startswith(wanted):
            return network
    raise NotFound(f"network {wanted} not found")


async def inspect(request: web.Request) -> web.Response:
    return body.json_response(_view(daemon_of(request), _find(request), verbose=True))


async def remove(request: web.Request) -> web.Response:
    network = _find(request)
    raise PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")


async def prune(_: web.Request) -> web.Response:
    """Nothing to prune: all networks are built in."""
    return body.json_response({"NetworksDeleted": None})


async def unimplemented(request: web.Request) -> web.Response:
    raise Unimplemented(f"{request.method} {request.path}: user-defined networks are not supported yet")
