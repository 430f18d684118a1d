"""The API as an aiohttp application: every resource's routes, each with and without a version in front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from cutaway.engine.api import (
    archive,
    container_streams,
    containers,
    disk_usage,
    events,
    image_making,
    images,
    middleware,
    networks,
    pruning,
    system,
    traces,
    volumes,
)
from cutaway.engine.api import exec as execs
from cutaway.engine.api.keys import DAEMON

if TYPE_CHECKING:
    from cutaway.engine.daemon import Daemon

_VERSION: Final = "/v{version:[0-9]+[.][0-9]+}"
# Docker has no limit; a create request with a large environment is the largest that makes sense.
_MAX_BODY: Final = 16 << 20


def make_app(daemon: Daemon) -> web.Application:
    """The application that serves a daemon."""
    app = web.Application(middlewares=[middleware.around], client_max_size=_MAX_BODY)
    app[DAEMON] = daemon
    app.on_response_prepare.append(middleware.add_headers)
    for route in _routes(daemon):
        for path in (_VERSION + route.path, route.path):
            if route.method == "GET":
                app.router.add_get(path, route.handler)  # and HEAD
            else:
                app.router.add_route(route.method, path, route.handler)
    return app


def _routes(daemon: Daemon) -> list[web.RouteDef]:
    return [
        *containers.routes(),
        *container_streams.routes(),
        *archive.routes(),
        *execs.routes(),
        *system.routes(),
        *disk_usage.routes(),
        *pruning.routes(),
        *images.routes(daemon.images, users=daemon.image_users, tell=daemon.tell_image),
        *image_making.routes(),
        *networks.routes(),
        *volumes.routes(),
        *events.routes(),
        *traces.routes(),
    ]
