"""A registry that does what a test tells it to, lies included; it lives in the test's own event loop."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.settings import ANONYMOUS, ClientSettings, Credentials
from cutaway.registry.reference import parse
from support.images import OCI_INDEX, Blob, Image, Layer, tar, to_json

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NAME = "team/app"


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class FakeRegistry:
    """Serves what it is given; a handler set with `on` takes precedence over all else."""

    manifests: dict[str, Blob] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    handlers: dict[str, Handler] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    bind: str = "127.0.0.1"
    tls: bool = False
    """Speak HTTPS with a certificate that nobody has signed."""
    context: ssl.SSLContext | None = None
    """Speak HTTPS as this says."""
    name: str = NAME
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        # A client that goes away ends a handler that would send for ever.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        context = _certificate() if self.tls else self.context
        site = web.TCPSite(self._runner, self.bind, 0, ssl_context=context)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self.resources.aclose()

    @property
    def host(self) -> str:
        return f"{self.bind}:{self.port}"

    def reference(self, tag: str = "1") -> str:
        return f"{self.host}/{NAME}:{tag}"

    def add(self, image: Image, tag: str = "1") -> Blob:
        """Serve an image under a tag; return its manifest."""
        manifest = image.manifest()
        self.blobs |= {blob.digest: blob.data for blob in image.blobs()}
        self.add_manifest(manifest, tag)
        return manifest

    def add_index(self, images: Mapping[tuple[str, str], Image], tag: str = "1") -> Blob:
        """Serve an index of images by (os, architecture)."""
        entries = [
            {**self.add(image, "").descriptor(), "platform": {"os": system, "architecture": architecture}}
            for (system, architecture), image in images.items()
        ]
        index = Blob(OCI_INDEX, to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
        self.add_manifest(index, tag)
        return index

    def add_manifest(self, manifest: Blob, tag: str = "1") -> None:
        self.manifests[manifest.digest] = manifest
        self.manifests[tag] = manifest

    def on(self, path: str, handler: Handler) -> None:
        """Let a handler answer all requests whose path ends so."""
        self.handlers[path] = handler

    def paths(self, method: str = "GET") -> list[str]:
        return [seen.path for seen in self.seen if seen.method == method]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(Seen(request.method, request.path, dict(request.headers)))
        for path, handler in self.handlers.items():
            if request.path.endswith(path):
                return await handler(request)
        return self.usual(request)

    def usual(self, request: web.Request) -> web.StreamResponse:
        """What an honest registry answers."""
        kind, _, name = request.path.removeprefix(f"/v2/{self.name}/").partition("/")
        if request.path == "/v2/":
            return web.json_response({})
        if kind == "manifests" and (manifest := self.manifests.get(name)):
            headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": manifest.digest}
            return web.Response(body=manifest.data, headers=headers)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name], content_type="application/octet-stream")
        code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
        return refusal(404, code, code.lower().replace("_", " "))


def _certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("localhost.pem"))
    return context


def refusal(status: int, code: str, message: str, **headers: str) -> web.Response:
    """An error as the distribution API has it; `_` in a header's name stands for `-`."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=named)


def small_image(text: str = "hello", *more: str) -> Image:
    """An image of one small layer for each text."""
    return Image(
        tuple(Layer(tar({f"file{n}": text.encode()})) for n, text in enumerate((text, *more))), {"Cmd": ["x"]}
    )


def quick(**settings: Any) -> ClientSettings:
    """Settings of a client that does not wait long."""
    return ClientSettings(**{"retry_delays": (0.0, 0.0), "read_timeout": 5, "connect_timeout": 5, **settings})


def run_with(
    work: Callable[[FakeRegistry, Callable[..., Repository]], Awaitable[None]], **settings: Any
) -> None:
    """Run a test's coroutine with a registry and a maker of repositories at it."""

    async def main() -> None:
        async with FakeRegistry() as registry:
            client = RegistryClient(quick(**settings))

            def repository(tag: str = "1", credentials: Credentials = ANONYMOUS, **rights: Any) -> Repository:
                return client.repository(parse(registry.reference(tag)), credentials, **rights)

            try:
                await asyncio.wait_for(work(registry, repository), 30)
            finally:
                await client.close()

    asyncio.run(main())


def bomb(size: int) -> bytes:
    """A gzip stream of so many zero bytes."""
    return gzip.compress(bytes(size), compresslevel=9, mtime=0)
