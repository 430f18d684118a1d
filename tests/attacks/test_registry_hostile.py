"""Registries that lie: one clear error each, nothing stored, memory bounded by what was declared."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from attacks.victim import CONFIG, IMAGE, LAYER, Victim
from cutaway import errors
from registry.fake import FakeRegistry
from support.images import OCI_INDEX, OCI_MANIFEST, Blob, to_json

pytestmark = [pytest.mark.root, pytest.mark.peers]


def manifest(**changes: object) -> Blob:
    """The image's manifest with some of its keys changed."""
    return Blob(OCI_MANIFEST, to_json({**json.loads(IMAGE.manifest().data), **changes}))


def index(*entries: dict[str, object]) -> Blob:
    return Blob(OCI_INDEX, to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}))


def test_layer_with_another_digest(victim: Victim) -> None:
    failure = victim.pulls(lambda registry: registry.blobs.update({LAYER.digest: bytes(len(LAYER.data))}))
    assert isinstance(failure, errors.DataLoss)
    assert str(failure) == f"filesystem layer verification failed for digest {LAYER.digest}"


def test_configuration_with_another_digest(victim: Victim) -> None:
    failure = victim.pulls(lambda registry: registry.blobs.update({CONFIG.digest: bytes(len(CONFIG.data))}))
    assert isinstance(failure, errors.DataLoss)


def test_manifest_with_another_digest(victim: Victim) -> None:
    def prepare(registry: FakeRegistry) -> None:
        honest = IMAGE.manifest()

        async def swap(request: web.Request) -> web.StreamResponse:
            data = honest.data if request.method == "HEAD" else honest.data.replace(b"schema", b"Schema")
            headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": honest.digest}
            return web.Response(body=data, headers=headers)

        registry.on("/manifests/1", swap)
        registry.on(f"/manifests/{honest.digest}", swap)

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.DataLoss) and "manifest verification failed for digest" in str(failure)


@pytest.mark.parametrize("chunked", [False, True])
def test_truncated_layer(victim: Victim, chunked: bool) -> None:
    def prepare(registry: FakeRegistry) -> None:
        async def short(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            if not chunked:
                response.content_length = len(LAYER.data)
            await response.prepare(request)
            await response.write(LAYER.data[:20])
            if not chunked and request.transport is not None:
                request.transport.close()
            return response

        registry.on(LAYER.digest, short)

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.DataLoss)
    assert f"was cut at 20 of {len(LAYER.data)} bytes: unexpected EOF" in str(failure)


def test_never_ending_layer_is_read_no_further_than_declared(victim: Victim) -> None:
    sent = 0

    def prepare(registry: FakeRegistry) -> None:
        async def endless(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(bytes(1 << 16))
                sent += 1 << 16

        registry.on(LAYER.digest, endless)

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.DataLoss) and "is longer than" in str(failure)
    assert sent < 64 << 20  # what fits into the sockets' buffers and the client's


def test_layer_of_another_length_than_declared(victim: Victim) -> None:
    failure = victim.pulls(lambda registry: registry.blobs.update({LAYER.digest: LAYER.data + b"more"}))
    assert isinstance(failure, errors.DataLoss) and f"expected {len(LAYER.data)}" in str(failure)


@pytest.mark.parametrize("announced", [False, True])
def test_manifest_too_large(victim: Victim, announced: bool) -> None:
    def prepare(registry: FakeRegistry) -> None:
        big = Blob(OCI_MANIFEST, IMAGE.manifest().data + b" " * (5 << 20))

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
            await response.prepare(request)
            while request.method == "GET":
                await response.write(b" " * (1 << 16))
            return response

        registry.add_manifest(big)
        if not announced:
            registry.on("/manifests/1", endless)

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.ResourceExhausted)
    assert "is larger than 4194304 bytes" in str(failure)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/layer",
        "unix:///run/docker.sock",
        "gopher://127.0.0.1:70/x",
        "http://[::1",
    ],
)
def test_redirect_to_what_is_no_http_url(victim: Victim, location: str) -> None:
    def prepare(registry: FakeRegistry) -> None:
        async def away(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": location})

        registry.on(LAYER.digest, away)

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.PermissionDenied) and "redirect of 127.0.0.1" in str(failure)


def test_redirect_in_a_circle(victim: Victim) -> None:
    def prepare(registry: FakeRegistry) -> None:
        async def away(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(request.path)

        registry.on(LAYER.digest, away)

    assert "stopped after 5 redirects" in str(victim.pulls(prepare))


def test_token_does_not_follow_a_redirect(victim: Victim) -> None:
    async def prepare(registry: FakeRegistry) -> None:
        thief = await registry.resources.enter_async_context(FakeRegistry(bind="127.0.0.3"))

        async def challenge(request: web.Request) -> web.StreamResponse:
            if "Authorization" in request.headers:
                return registry.usual(request)
            realm = f'Bearer realm="http://{registry.host}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})

        async def token(request: web.Request) -> web.StreamResponse:
            return web.json_response({"token": "precious"})

        async def away(request: web.Request) -> web.StreamResponse:
            assert request.headers["Authorization"] == "Bearer precious"
            raise web.HTTPFound(f"http://{thief.host}{request.path}")

        async def steal(request: web.Request) -> web.StreamResponse:
            assert "Authorization" not in request.headers
            return web.Response(status=418, text="nothing to steal")

        thief.on("", steal)
        registry.on("/token", token)
        registry.on(LAYER.digest, away)
        registry.on("/v2/", challenge)

    assert "received unexpected HTTP status from http://127.0.0.3" in str(victim.pulls(prepare))


@pytest.mark.parametrize(
    ("media_type", "said"),
    [
        ("text/html", "unsupported media type text/html"),
        (
            "application/vnd.oci.image.config.v1+json",
            "unsupported media type application/vnd.oci.image.config",
        ),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1 is no longer supported"),
    ],
)
def test_media_type_of_no_image(victim: Victim, media_type: str, said: str) -> None:
    failure = victim.pulls(lambda registry: registry.add_manifest(Blob(media_type, IMAGE.manifest().data)))
    assert isinstance(failure, errors.InvalidArgument) and said in str(failure)


def test_artifact_that_is_no_image(victim: Victim) -> None:
    config = {"mediaType": "application/vnd.example.chart", "digest": CONFIG.digest, "size": len(CONFIG.data)}
    failure = victim.pulls(lambda registry: registry.add_manifest(manifest(config=config)))
    assert str(failure) == "unsupported media type application/vnd.example.chart: not an image"


def test_index_without_a_fitting_platform(victim: Victim) -> None:
    def prepare(registry: FakeRegistry) -> None:
        entry = registry.add(IMAGE).descriptor()
        unknown = {"os": "unknown", "architecture": "unknown"}
        registry.add_manifest(
            index(
                {**entry, "platform": {"os": "linux", "architecture": "s390x"}},
                {**entry, "platform": unknown},
            )
        )

    failure = victim.pulls(prepare)
    assert isinstance(failure, errors.NotFound)
    assert str(failure).startswith("no matching manifest for linux/")


def test_indexes_inside_each_other_have_an_end(victim: Victim) -> None:
    """One that holds itself cannot be made, for it would hold its own digest; a long chain can."""

    def prepare(registry: FakeRegistry) -> None:
        blob = registry.add(IMAGE)
        for _ in range(20):
            blob = index(blob.descriptor())
            registry.add_manifest(blob)

    assert "image index: more than 5 indexes inside each other" in str(victim.pulls(prepare))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "image manifest: not valid JSON"),
        (b"[" * 100_000, "image manifest: nested too deeply"),
        (b"[]", "image manifest:: expected object, got array"),
        (b"{}", "image manifest:schemaVersion: required, but missing"),
        (b'{"schemaVersion": 2, "config": 7, "layers": []}', "config: expected object, got number"),
        (b"\xff\xfe", "image manifest: not valid JSON"),
        (b'{"schemaVersion": NaN}', "image manifest: not valid JSON"),
    ],
)
def test_manifest_that_is_malformed(victim: Victim, data: bytes, said: str) -> None:
    failure = victim.pulls(lambda registry: registry.add_manifest(Blob(OCI_MANIFEST, data)))
    assert isinstance(failure, errors.InvalidArgument) and said in str(failure)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "sha256:../../../../etc/passwd"}, "invalid digest"),
        ({"digest": "md5:" + "0" * 32}, "invalid digest"),
        ({"digest": "sha256:" + "0" * 64 + "\r\nX-Evil: 1"}, "invalid digest"),
        ({"size": -1}, "negative size"),
        ({"size": 1 << 70}, "does not fit into 64 bits"),
        ({"size": "10"}, "expected integer, got string"),
    ],
)
def test_layer_descriptor_that_cannot_be(victim: Victim, change: dict[str, object], said: str) -> None:
    layers = [{**LAYER.descriptor(), **change}]
    failure = victim.pulls(lambda registry: registry.add_manifest(manifest(layers=layers)))
    assert isinstance(failure, errors.InvalidArgument) and said in str(failure)


def test_a_million_layers(victim: Victim) -> None:
    layers = [LAYER.descriptor()] * 20_000
    failure = victim.pulls(lambda registry: registry.add_manifest(manifest(layers=layers)))
    assert isinstance(failure, errors.ResourceExhausted) and "at most" in str(failure)


def test_configuration_with_other_layers_than_the_manifest(victim: Victim) -> None:
    failure = victim.pulls(
        lambda registry: registry.add_manifest(manifest(layers=[LAYER.descriptor(), LAYER.descriptor()]))
    )
    assert str(failure) == "image configuration: 1 diff_ids for 2 layers"


def test_configuration_bomb(victim: Victim) -> None:
    config = {**CONFIG.descriptor(), "size": 1 << 40}
    failure = victim.pulls(lambda registry: registry.add_manifest(manifest(config=config)))
    assert isinstance(failure, errors.ResourceExhausted)


def test_error_texts_are_tamed(victim: Victim) -> None:
    def prepare(registry: FakeRegistry) -> None:
        async def shout(request: web.Request) -> web.StreamResponse:
            message = "\x1b[2J\nowned\r\n" + "x" * 10_000
            return web.json_response({"errors": [{"code": "DENIED", "message": message}]}, status=403)

        registry.on("/manifests/1", shout)

    text = str(victim.pulls(prepare))
    assert "\x1b" not in text and "owned" in text


def test_registry_that_is_no_registry(victim: Victim) -> None:
    def prepare(registry: FakeRegistry) -> None:
        async def page(request: web.Request) -> web.StreamResponse:
            return web.Response(text="<html>Welcome!</html>", content_type="text/html")

        registry.on("", page)

    assert str(victim.pulls(prepare)) == "unsupported media type text/html"


JUNK = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
PLACES = st.sampled_from([("config",), ("layers",), ("config", "digest"), ("config", "size"), ("layers", 0)])


@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(PLACES, JUNK)
def test_any_junk_in_a_manifest(victim: Victim, place: tuple[str | int, ...], junk: object) -> None:
    document = json.loads(IMAGE.manifest().data)
    holder = document
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = junk
    failure = victim.pulls(lambda registry: registry.add_manifest(Blob(OCI_MANIFEST, to_json(document))))
    # 1e20 is a whole number to JSON, so a size may also be too large, or not the blob's.
    assert isinstance(failure, errors.InvalidArgument | errors.ResourceExhausted | errors.DataLoss)
