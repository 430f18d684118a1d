"""The registry as a web application: its routes and what surrounds them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cutaway import errors
from cutaway.registry.hello import image as hello
from cutaway.registry.server.blobs import BlobRoutes
from cutaway.registry.server.failures import API_VERSION, Refusal, around
from cutaway.registry.server.manifests import ManifestRoutes
from cutaway.registry.server.storage import Storage
from cutaway.trace import context, spans


def make_app(storage: Storage, *, read_only: bool = False) -> web.Application:
    """The application over a storage; with `read_only` every push and delete is refused."""
    app = web.Application(middlewares=[_traced, around])
    blobs, manifests = BlobRoutes(storage), ManifestRoutes(storage)
    app.router.add_routes(
        [
            web.get("/v2/", _version),
            web.get("/v2/_catalog", manifests.catalog),
            web.get("/v2/{name:.+}/tags/list", manifests.tags),
            web.get("/v2/{name:.+}/referrers/{digest}", manifests.referrers),
            web.get("/v2/{name:.+}/manifests/{reference}", manifests.get),
            web.get("/v2/{name:.+}/blobs/{digest}", blobs.get),
        ]
    )
    writing = [
        web.put("/v2/{name:.+}/manifests/{reference}", manifests.put),
        web.delete("/v2/{name:.+}/manifests/{reference}", manifests.delete),
        web.delete("/v2/{name:.+}/blobs/{digest}", blobs.delete),
        web.post("/v2/{name:.+}/blobs/uploads/", blobs.start),
        web.get("/v2/{name:.+}/blobs/uploads/{upload}", blobs.status),
        web.patch("/v2/{name:.+}/blobs/uploads/{upload}", blobs.append),
        web.put("/v2/{name:.+}/blobs/uploads/{upload}", blobs.finish),
        web.delete("/v2/{name:.+}/blobs/uploads/{upload}", blobs.cancel),
    ]
    if read_only:
        writing = [web.route(route.method, route.path, _refuse) for route in writing]
    app.router.add_routes(writing)
    return app


async def _version(request: web.Request) -> web.Response:
    return web.json_response({}, headers=API_VERSION)


async def _refuse(request: web.Request) -> web.Response:
    raise Refusal("DENIED", errors.PermissionDenied("this registry is read-only"))


@web.middleware
async def _traced(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Record a request of a caller that brings a trace."""
    parent = context.parse(request.headers.get(context.HEADER))
    if parent is None:
        return await handler(request)
    with spans.span(f"registry {request.method}", parent=parent, kind=spans.SERVER) as span:
        span.set(**{"http.request.method": request.method, "url.path": request.path})
        response = await handler(request)
        span.set(**{"http.response.status_code": response.status})
        return response


def add_hello(storage: Storage) -> str:
    """Put hello-world into a storage; return the digest of its index."""
    made = hello.build()
    if made.index.digest in _tagged(storage):
        return made.index.digest  # the tag was the last thing written, so all of it is there
    for blob in made.blobs:
        storage.put_blob(hello.NAME, blob.data)
    for manifest in made.manifests:
        storage.put_manifest(hello.NAME, manifest.data, manifest.media_type, manifest.digest)
    index = made.index
    storage.put_manifest(hello.NAME, index.data, index.media_type, index.digest, hello.TAG)
    return index.digest


def _tagged(storage: Storage) -> list[str]:
    try:
        return [storage.manifest(hello.NAME, hello.TAG).digest]
    except Refusal:
        return []
