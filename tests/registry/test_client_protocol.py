"""The registry client against a registry that follows its orders: tokens, redirects, retries, resumes."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs, manifests
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.failures import RegistryUnreachable
from cutaway.registry.client.settings import Credentials
from cutaway.registry.reference import parse
from cutaway.trace import spans
from registry.fake import NAME, FakeRegistry, quick, refusal, run_with, small_image
from support.images import Blob

Repositories = Callable[..., Repository]

BIG = Blob("application/octet-stream", bytes(range(256)) * 4096)  # 1 MiB
LOGIN = Credentials(username="ann", password="secret")


def descriptor(blob: Blob) -> Descriptor:
    return Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.data))


async def read(repository: Repository, blob: Blob) -> bytes:
    return b"".join([piece async for piece in blobs.stream(repository, descriptor(blob))])


async def pull_manifest(repository: Repository) -> manifests.Fetched:
    return await manifests.fetch(repository, await manifests.resolve(repository))


class Tokens:
    """A token service and the guard of a registry's resources."""

    def __init__(self, registry: FakeRegistry, *, expires_in: int = 300, on_ping: bool = True) -> None:
        self.registry = registry
        self.expires_in = expires_in
        self.asked: list[web.Request] = []
        registry.on("/token", self.issue)
        registry.on(f"/v2/{NAME}/manifests/1", self.guard)
        registry.on("/v2/", self.guard if on_ping else self.open)

    async def open(self, request: web.Request) -> web.StreamResponse:
        return self.registry.usual(request)

    async def issue(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        token = f"token-{len(self.asked)}-for-{request.query['scope']}"
        return web.json_response({"access_token": token, "expires_in": self.expires_in})

    async def guard(self, request: web.Request) -> web.StreamResponse:
        if f"for-repository:{NAME}:pull" in request.headers.get("Authorization", ""):
            return self.registry.usual(request)
        challenge = f'Bearer realm="http://{self.registry.host}/token",service="a, \\"quoted\\" one"'
        return refusal(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)


@pytest.mark.parametrize("on_ping", [True, False])
def test_bearer_token_is_fetched_once_and_used(on_ping: bool) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        manifest, tokens = registry.add(small_image()), Tokens(registry, on_ping=on_ping)
        mine = repository()
        assert (await pull_manifest(mine)).descriptor.digest == manifest.digest
        await pull_manifest(mine)
        (asked,) = tokens.asked
        assert asked.query["service"] == 'a, "quoted" one'
        assert asked.query["scope"] == f"repository:{NAME}:pull"
        assert "Authorization" not in asked.headers

    run_with(work)


def test_token_that_has_expired_is_fetched_again() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.add(small_image())
        tokens = Tokens(registry, expires_in=1)
        await pull_manifest(repository())
        assert len(tokens.asked) == 2  # one for HEAD, one for GET

    run_with(work)


def test_login_goes_to_the_token_service_and_nowhere_else() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.add(small_image())
        tokens = Tokens(registry)
        await pull_manifest(repository(credentials=LOGIN))
        basic = "Basic " + base64.b64encode(b"ann:secret").decode()
        assert tokens.asked[0].headers["Authorization"] == basic
        assert tokens.asked[0].query["account"] == "ann"
        told = [seen for seen in registry.seen if seen.headers.get("Authorization") == basic]
        assert [seen.path for seen in told] == ["/token"]

    run_with(work)


def test_basic_login() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.add(small_image())
        basic = "Basic " + base64.b64encode(b"ann:secret").decode()

        async def guard(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") == basic:
                return registry.usual(request)
            return refusal(
                401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="here"'
            )

        registry.on("", guard)
        await pull_manifest(repository(credentials=LOGIN))
        with pytest.raises(errors.Unknown, match=r'Head "http://.*": no basic auth credentials'):
            await pull_manifest(repository())
        with pytest.raises(errors.Unauthenticated, match="unauthorized: authentication required"):
            await pull_manifest(repository(credentials=Credentials(username="ann", password="x")))

    run_with(work)


def test_denied_token_is_told_in_dockers_words() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def guard(request: web.Request) -> web.StreamResponse:
            challenge = f'Bearer realm="http://{registry.host}/token",service="s",error="insufficient_scope"'
            return refusal(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

        Tokens(registry)
        registry.on("/manifests/1", guard)
        registry.handlers[f"/v2/{NAME}/manifests/1"] = guard
        with pytest.raises(errors.NotFound) as caught:
            await pull_manifest(repository())
        assert str(caught.value) == (
            f"pull access denied for {registry.host}/{NAME}, repository does not exist or may require "
            "'docker login': denied: requested access to the resource is denied"
        )

    run_with(work)


def test_missing_tag_and_rate_limit() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        with pytest.raises(errors.NotFound) as caught:
            await pull_manifest(repository("2"))
        missing = f"manifest for {registry.host}/{NAME}:2 not found: manifest unknown: manifest unknown"
        assert str(caught.value) == missing

        async def limit(request: web.Request) -> web.StreamResponse:
            return refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")

        registry.on("/manifests/1", limit)
        with pytest.raises(
            errors.ResourceExhausted, match=r"^toomanyrequests: You have reached your pull rate"
        ):
            await pull_manifest(repository())

    run_with(work)


def test_redirect_to_another_host_does_not_take_the_token_along() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async with FakeRegistry(bind="127.0.0.2", blobs={BIG.digest: BIG.data}) as storage:
            registry.add(small_image())
            Tokens(registry)

            async def away(request: web.Request) -> web.StreamResponse:
                assert request.headers["Authorization"].startswith("Bearer ")
                raise web.HTTPTemporaryRedirect(f"http://{storage.host}{request.path}?signature=a%2Fb")

            registry.on(f"/blobs/{BIG.digest}", away)
            assert await read(repository(), BIG) == BIG.data
            (seen,) = storage.seen
            assert "Authorization" not in seen.headers

    run_with(work)


def test_blob_that_is_cut_is_resumed_where_it_was_cut() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        ranges: list[str] = []

        async def cut(request: web.Request) -> web.StreamResponse:
            ranges.append(request.headers.get("Range", ""))
            start = int(ranges[-1].removeprefix("bytes=").rstrip("-") or 0)
            response = web.StreamResponse(status=206 if start else 200)
            response.headers["Content-Range"] = f"bytes {start}-{len(BIG.data) - 1}/{len(BIG.data)}"
            response.content_length = len(BIG.data) - start
            await response.prepare(request)
            await response.write(BIG.data[start : start + 400_000])
            if start + 400_000 < len(BIG.data):
                assert request.transport is not None
                request.transport.abort()
            return response

        registry.on(f"/blobs/{BIG.digest}", cut)
        assert await read(repository(), BIG) == BIG.data
        assert ranges[0] == "" and len(ranges) >= 3

    run_with(work)


def test_blob_is_resumed_from_a_server_without_ranges() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        attempts: list[str] = []

        async def cut(request: web.Request) -> web.StreamResponse:
            attempts.append(request.headers.get("Range", ""))
            response = web.StreamResponse()
            response.content_length = len(BIG.data)
            await response.prepare(request)
            if len(attempts) == 1:
                await response.write(BIG.data[:300_000])
                assert request.transport is not None
                request.transport.close()
            else:
                await response.write(BIG.data)
            return response

        registry.on(f"/blobs/{BIG.digest}", cut)
        assert await read(repository(), BIG) == BIG.data
        assert len(attempts) == 2

    run_with(work)


def test_server_errors_and_resets_are_tried_again() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        manifest, failures = registry.add(small_image()), iter((503, 0))

        async def flaky(request: web.Request) -> web.StreamResponse:
            failing = next(failures, None)
            if failing == 0:
                assert request.transport is not None
                request.transport.abort()
            return web.Response(status=503) if failing else registry.usual(request)

        registry.on("/manifests/1", flaky)
        assert (await pull_manifest(repository())).descriptor.digest == manifest.digest

    run_with(work)


def test_server_error_that_stays_is_told() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def broken(request: web.Request) -> web.StreamResponse:
            return refusal(500, "UNKNOWN", "the disk\nis full")

        registry.on("/manifests/1", broken)
        with pytest.raises(errors.CutawayError, match=r"^unknown: the disk is full$"):
            await pull_manifest(repository())

    run_with(work)


def test_registry_that_challenges_to_a_plain_http_realm_elsewhere_gets_no_password() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.add(small_image())

        async def guard(request: web.Request) -> web.StreamResponse:
            challenge = 'Bearer realm="http://tokens.example/token",service="s"'
            return refusal(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

        registry.on("", guard)
        with pytest.raises(errors.PermissionDenied, match="is not an HTTPS URL"):
            await pull_manifest(repository(credentials=LOGIN))

    run_with(work)


def test_docker_hub_is_where_names_without_a_host_go() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.name = "library/app"
        manifest = registry.add(small_image(), "latest")
        client = RegistryClient(quick(docker_hub=f"http://{registry.host}"))
        try:
            hub = client.repository(parse("app").with_default_tag())
            assert (await pull_manifest(hub)).descriptor.digest == manifest.digest
            missing = client.repository(parse("app:2"))
            with pytest.raises(errors.NotFound, match=r"^manifest for app:2 not found: manifest unknown: "):
                await pull_manifest(missing)
        finally:
            await client.close()

    run_with(work)


def test_loopback_registry_with_tls_needs_no_signed_certificate_and_others_do() -> None:
    async def work(_: FakeRegistry, __: Repositories) -> None:
        async with FakeRegistry(tls=True) as registry:
            manifest = registry.add(small_image())
            client = RegistryClient(quick(docker_hub=f"https://{registry.host}"))
            try:
                mine = client.repository(parse(registry.reference()))
                assert (await pull_manifest(mine)).descriptor.digest == manifest.digest
                with pytest.raises(RegistryUnreachable) as caught:
                    await pull_manifest(client.repository(parse("app:1")))
            finally:
                await client.close()
            where = f'Get "https://{registry.host}/v2/"'
            assert str(caught.value) == f"{where}: x509: certificate signed by unknown authority"

    run_with(work)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (
            "127.0.0.1:1/x:1",
            'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
        ),
        ("registry.invalid/x:1", 'Get "https://registry.invalid/v2/": dial tcp: lookup registry.invalid: '),
    ],
)
def test_unreachable_registries_are_told_in_dockers_words(reference: str, said: str) -> None:
    async def work(_: FakeRegistry, __: Repositories) -> None:
        client = RegistryClient(quick())
        try:
            with pytest.raises(RegistryUnreachable) as caught:
                await pull_manifest(client.repository(parse(reference)))
        finally:
            await client.close()
        assert str(caught.value).startswith(said)

    run_with(work)


def test_requests_blobs_and_tokens_are_recorded_without_secrets() -> None:
    recorded: list[spans.Span] = []
    spans.configure("test", recorded.append)
    try:

        async def work(registry: FakeRegistry, repository: Repositories) -> None:
            registry.add(small_image())
            registry.blobs[BIG.digest] = BIG.data
            Tokens(registry)
            mine = repository(credentials=LOGIN)
            await pull_manifest(mine)
            await read(mine, BIG)

        run_with(work)
    finally:
        spans.configure("", None)
    blob = next(span for span in recorded if span.name == "blob")
    assert (blob.attributes["digest"], blob.attributes["bytes"]) == (BIG.digest, len(BIG.data))
    requests = [span.attributes for span in recorded if span.name.startswith("HTTP ")]
    assert {request.get("http.response.status_code") for request in requests} >= {200, 401}
    assert any(str(request["url.full"]).endswith(f"/blobs/{BIG.digest}") for request in requests)
    told = repr([span.attributes for span in recorded])
    assert "secret" not in told and "token-1" not in told and "Basic" not in told
