"""Registries that do not end, and documents that multiply: how much of them is read, and what is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web

from attacks.victim import CONFIG, IMAGE, LAYER, Victim
from cutaway import errors
from registry.fake import FakeRegistry, Handler
from support.images import OCI_INDEX, OCI_MANIFEST, Blob, digest_of, to_json

pytestmark = [pytest.mark.root, pytest.mark.peers]

MOST = 64 << 20  # bytes that fit into the sockets' buffers and the client's


class Endless:
    """Answers that go on until the client has enough."""

    def __init__(self) -> None:
        self.sent = 0
        self.cut = asyncio.Event()

    def answer(self, status: int = 200, **headers: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(
                status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            await response.prepare(request)
            try:
                while request.method != "HEAD":
                    await response.write(b" " * (1 << 16))
                    self.sent += 1 << 16
                    assert self.sent < 4 * MOST, "nobody stops reading"
            finally:
                self.cut.set()
            return response

        return handle


def challenge(registry: FakeRegistry) -> Handler:
    """All of a registry behind tokens."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == "Bearer t":
            return registry.usual(request)
        realm = f'Bearer realm="http://{registry.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    return handle


def at_token(status: int) -> Callable[[FakeRegistry, Endless], None]:
    def prepare(registry: FakeRegistry, endless: Endless) -> None:
        registry.on("/token", endless.answer(status))
        registry.on("", challenge(registry))

    return prepare


def at(path: str, status: int = 200, **headers: str) -> Callable[[FakeRegistry, Endless], None]:
    return lambda registry, endless: registry.on(path, endless.answer(status, **headers))


ENDLESS: dict[str, tuple[Callable[[FakeRegistry, Endless], None], str]] = {
    "ping": (at("/v2/", 500), "received unexpected HTTP status"),
    "token": (at_token(200), "the token service's reply is larger than 1048576 bytes"),
    "token refused": (at_token(403), "the token service's reply is larger than 1048576 bytes"),
    "manifest": (at("/manifests/1", Content_Type=OCI_MANIFEST), "is larger than 4194304 bytes"),
    "manifest refused": (at("/manifests/1", 404), "manifest for "),
    "manifest redirected": (at("/manifests/1", 307, Location="ftp://x/y"), "not an http(s) URL"),
    "configuration": (at(CONFIG.digest), f"is longer than {len(CONFIG.data)} bytes"),
    "configuration refused": (at(CONFIG.digest, 403), "pull access denied"),
    "layer": (at(LAYER.digest), f"is longer than {len(LAYER.data)} bytes"),
    "layer refused": (at(LAYER.digest, 404), "not found"),
    "layer fails": (at(LAYER.digest, 502), "received unexpected HTTP status"),
}


@pytest.mark.parametrize("where", ENDLESS)
def test_a_body_without_end_is_read_so_far_and_no_further(victim: Victim, where: str) -> None:
    prepare, said = ENDLESS[where]
    endless = Endless()
    failure = victim.pulls(lambda registry: prepare(registry, endless))
    assert said in str(failure)
    assert endless.cut.is_set() and endless.sent < MOST


@pytest.mark.parametrize("size", [0, 1, len(CONFIG.data) + 1])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_a_blob_of_another_size_than_its_descriptor_says(victim: Victim, size: int, known: bool) -> None:
    """Also where the blob is there already, and the registry is not asked for it."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {**CONFIG.descriptor(), "size": size},
        "layers": [LAYER.descriptor()],
    }
    if known:
        victim.pulls(lambda registry: registry.blobs.pop(LAYER.digest), keep=True)
        assert CONFIG.digest in victim.content()
    failure = victim.pulls(lambda registry: registry.add_manifest(Blob(OCI_MANIFEST, to_json(document))))
    assert isinstance(failure, errors.DataLoss)
    assert f"expected {size}" in str(failure) or f"longer than {size} bytes" in str(failure)


def index(*entries: dict[str, object]) -> Blob:
    return Blob(OCI_INDEX, to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}))


def test_an_index_with_very_many_entries(victim: Victim) -> None:
    entries = [IMAGE.manifest().descriptor()] * 20_000
    failure = victim.pulls(lambda registry: registry.add_manifest(index(*entries)))
    assert isinstance(failure, errors.ResourceExhausted)
    assert str(failure) == "manifest with 20000 manifests: at most 1000 allowed"


@pytest.mark.parametrize("length", [1, 2])
def test_indexes_in_a_circle(victim: Victim, length: int) -> None:
    """A circle can only be made with a digest that is none of the index's own, which is found out."""

    def prepare(registry: FakeRegistry) -> None:
        promised = digest_of(b"what nobody has")
        blob = index({"mediaType": OCI_INDEX, "digest": promised, "size": 0})
        for _ in range(length - 1):
            blob = index(blob.descriptor())
        first = blob
        registry.add_manifest(first)

        async def again(request: web.Request) -> web.StreamResponse:
            headers = {"Content-Type": OCI_INDEX, "Docker-Content-Digest": promised}
            return web.Response(body=first.data, headers=headers)

        registry.on(f"/manifests/{promised}", again)
        if length > 1:
            inner = index({"mediaType": OCI_INDEX, "digest": promised, "size": 0})
            registry.manifests[inner.digest] = inner

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.DataLoss)
    assert "manifest verification failed for digest" in str(failure)
