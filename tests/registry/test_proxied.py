"""Requests through a proxy: plain ones handed to it, TLS in a tunnel that it opens and cannot look into."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from cutaway.registry.client import manifests
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.failures import RegistryUnreachable
from cutaway.registry.client.proxies import Proxies
from cutaway.registry.client.settings import Credentials
from cutaway.registry.reference import parse
from registry.fake import NAME, FakeRegistry, quick, refusal, small_image
from support.certificates import Authority

HOST = "registry.example:5000"  # nobody but the proxy knows where that is
LOGIN = Credentials(username="ann", password="secret")


@dataclass
class Proxy:
    """An HTTP proxy that takes every host for one port of loopback."""

    target: int
    heads: list[str] = field(default_factory=list)
    refuse: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self.refuse:
            writer.write(f"HTTP/1.1 {self.refuse}\r\nContent-Length: 0\r\n\r\n".encode())
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        if head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            back.write(head)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    target.close()


async def pull(repository: Repository) -> str:
    return (await manifests.fetch(repository, None)).descriptor.digest


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))


def test_plain_requests_are_handed_to_the_proxy() -> None:
    async def work() -> None:
        async with FakeRegistry() as registry:
            digest = registry.add(small_image()).digest
            proxy = Proxy(registry.port)
            async with proxy.running() as address:
                proxies = Proxies(f"ann:pw@{address}", "", "")
                settings = quick(proxies=proxies, insecure_registries=frozenset((HOST,)))
                client = RegistryClient(settings)
                endpoint = client.repository(parse(f"{HOST}/{NAME}:1"))
                try:
                    # HTTPS has no proxy here, and without one the host cannot be found.
                    assert await pull(endpoint) == digest
                finally:
                    await client.close()
            wanted = base64.b64encode(b"ann:pw").decode()
            assert proxy.heads[0].startswith(f"GET http://{HOST}/v2/ HTTP/1.1\r\n")
            assert all(f"Proxy-Authorization: Basic {wanted}\r\n" in head for head in proxy.heads)

    run(work)


def test_tls_goes_through_a_tunnel(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    context = authority.sign("registry.example").server_context()
    folder = tmp_path / "certs" / HOST
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.pair.certificate.read_bytes())

    async def work() -> None:
        async with FakeRegistry(context=context) as registry:

            async def guard(request: web.Request) -> web.StreamResponse:
                if "Authorization" in request.headers:
                    return registry.usual(request)
                return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate='Basic realm="x"')

            registry.on("", guard)
            digest = registry.add(small_image()).digest
            proxy = Proxy(registry.port)
            async with proxy.running() as address:
                proxies = Proxies("", f"http://{address}", "")
                client = RegistryClient(quick(proxies=proxies, certs_dir=tmp_path / "certs"))
                try:
                    assert await pull(client.repository(parse(f"{HOST}/{NAME}:1"), LOGIN)) == digest
                finally:
                    await client.close()
            assert all(head.startswith(f"CONNECT {HOST} HTTP/1.1\r\n") for head in proxy.heads)
            assert not any("Authorization" in head for head in proxy.heads)
            assert len(proxy.heads) == 1  # the connection is used again

    run(work)


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        ("407 Proxy Authentication Required", "proxyconnect tcp: 407 Proxy Authentication Required"),
        ("403 Forbidden", "proxyconnect tcp: 403 Forbidden"),
    ],
)
def test_a_tunnel_that_is_refused(refuse: str, said: str) -> None:
    async def work() -> None:
        proxy = Proxy(1, refuse=refuse)
        async with proxy.running() as address:
            client = RegistryClient(quick(proxies=Proxies("", address, "")))
            try:
                with pytest.raises(RegistryUnreachable, match=f'^Get "https://{HOST}/v2/": {said}$'):
                    await pull(client.repository(parse(f"{HOST}/{NAME}:1")))
            finally:
                await client.close()

    run(work)


def test_a_proxy_that_is_not_there() -> None:
    async def work() -> None:
        client = RegistryClient(quick(proxies=Proxies("", "http://127.0.0.1:1", "")))
        try:
            with pytest.raises(RegistryUnreachable, match="proxyconnect tcp: "):
                await pull(client.repository(parse(f"{HOST}/{NAME}:1")))
        finally:
            await client.close()

    run(work)
