"""Heads that cannot be and challenges that lead astray: one clear line each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.registry.client import manifests
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.settings import Credentials
from cutaway.registry.reference import parse
from registry.fake import NAME, FakeRegistry, quick, refusal, run_with, small_image

Repositories = Callable[..., Repository]

LOGIN = Credentials(username="ann", password="secret")
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

HEADS = {
    "no http": b"220 mail.example ESMTP\r\n\r\n",
    "nothing": b"",
    "status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "status too long": b"HTTP/1.1 20000 OK\r\nContent-Length: 0\r\n\r\n",
    "header too long": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "no end of headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000,
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    "chunk of letters": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    "nul in location": b"HTTP/1.1 302 Found\r\nLocation: /a\x00b\r\nContent-Length: 0\r\n\r\n",
    "return in location": b"HTTP/1.1 302 Found\r\nLocation: /a\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "line feed in location": b"HTTP/1.1 302 Found\r\nLocation: /a\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "folded location": b"HTTP/1.1 302 Found\r\nLocation: /a\r\n X-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "return in challenge": b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="http://a\rX: 1"\r\n\r\n',
    "folded challenge": b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\n realm="http://a\x0bb"\r\n\r\n',
    "line feed in challenge": b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="a\nb"\r\n\r\n',
    "return in type": b"HTTP/1.1 200 OK\r\nContent-Type: a/b\rX: 1\r\nContent-Length: 2\r\n\r\n{}",
    "return in digest": b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: x\ry\r\nContent-Length: 2\r\n\r\n{}",
    "return in retry": b"HTTP/1.1 429 No\r\nRetry-After: 1\r2\r\nContent-Length: 0\r\n\r\n",
    "empty name": b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_heads_that_cannot_be(head: bytes) -> None:
    """The registry is found; then its manifest is asked for."""

    asked_for: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readexactly(4)
        if asked == b"GET ":  # and not TLS, which is tried first
            asked = await reader.readuntil(b"\r\n\r\n")
            asked_for.append(asked)
            writer.write(FINE if asked.startswith(b"/v2/ ") else head)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = RegistryClient(quick())
        try:
            with pytest.raises(errors.CutawayError) as caught:
                await asyncio.wait_for(
                    manifests.fetch(client.repository(parse(f"127.0.0.1:{port}/x:1")), None), 20
                )
        finally:
            await client.close()
            server.close()
        text = str(caught.value)
        assert text.isprintable() and len(text) < 1500
        assert not any(
            b"\nX-Evil" in asked or asked.partition(b"\r\n")[0].count(b" ") != 1 for asked in asked_for
        )

    asyncio.run(main())


@pytest.mark.parametrize(
    "realm",
    ["", "file:///etc/passwd", "gopher://127.0.0.1/x", "//127.0.0.1/x", "http://[bad", "x", "http://"],
)
def test_token_services_that_are_none_are_not_asked(realm: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def guard(request: web.Request) -> web.StreamResponse:
            return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate=f'Bearer realm="{realm}",service="s"')

        registry.on("", guard)
        with pytest.raises(errors.PermissionDenied, match="is not an HTTPS URL"):
            await manifests.fetch(repository(credentials=LOGIN), None)

    run_with(work)


def test_what_a_challenge_says_stays_inside_the_request_for_a_token() -> None:
    """Quotes, ampersands and percent signs in a service or a scope do not become parameters."""

    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        asked: list[web.Request] = []

        async def issue(request: web.Request) -> web.StreamResponse:
            asked.append(request)
            return web.json_response({"token": "t"})

        async def guard(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") == "Bearer t":
                return registry.usual(request)
            realm = f"http://{registry.host}/token?own=1&account=eve#fragment"
            challenge = f'Bearer realm="{realm}",service="a&b=c%0d%0aX: 1\\"",scope="x&y#z"'
            return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate=challenge)

        registry.add(small_image())
        registry.on("/token", issue)
        registry.on("/1", guard)
        registry.on("/v2/", guard)
        await manifests.fetch(repository(credentials=LOGIN), None)
        (request,) = asked
        assert request.query["service"] == 'a&b=c%0d%0aX: 1"'
        assert request.query.getall("scope") == [f"repository:{NAME}:pull", "x&y#z"]
        assert request.query.getall("account") == ["ann"]
        assert request.query["own"] == "1"
        assert "X" not in request.headers

    run_with(work)


@pytest.mark.parametrize("location", ["/v2/a%0dX-Evil:1", "?x=%0d%0aX-Evil:1", "/v2/%2e%2e/etc/passwd"])
def test_a_location_is_one_request_and_no_more(location: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def lead(request: web.Request) -> web.StreamResponse:
            if request.query:
                return refusal(404, "MANIFEST_UNKNOWN", "no")
            return web.Response(status=302, headers={"Location": location})

        registry.on("/manifests/1", lead)
        with pytest.raises(errors.NotFound):
            await manifests.fetch(repository(), None)
        assert len(registry.seen) == 3  # /v2/, the manifest, and where it leads
        assert not any("X-Evil" in seen.headers for seen in registry.seen)

    run_with(work)
