"""Certificates by `certs.d`: authorities of one's own, client certificates, and files that cannot be used."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.registry.client import manifests
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.failures import RegistryUnreachable
from cutaway.registry.client.settings import Credentials, Endpoint
from cutaway.registry.reference import parse
from registry.fake import NAME, FakeRegistry, quick, refusal, small_image
from support.certificates import Authority, Pair

LOGIN = Credentials(username="ann", password="secret")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.sign("localhost")


@asynccontextmanager
async def verified(
    context: ssl.SSLContext, certs_dir: Path
) -> AsyncIterator[tuple[FakeRegistry, Repository]]:
    """A registry at a name whose certificate is looked at: loopback's is not, unless one insists."""
    async with FakeRegistry(context=context) as registry:
        registry.add(small_image())
        domain = f"localhost:{registry.port}"
        client = RegistryClient(quick(certs_dir=certs_dir))
        endpoint = Endpoint(domain, (f"https://{domain}",), verify_tls=True)
        try:
            yield registry, client.repository(parse(f"{domain}/{NAME}:1"), LOGIN, endpoint)
        finally:
            await client.close()


def run(
    context: ssl.SSLContext, certs: Path, work: Callable[[FakeRegistry, Repository], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with verified(context, certs) as (registry, repository):
            await work(registry, repository)

    asyncio.run(main())


async def pull(repository: Repository) -> str:
    return (await manifests.fetch(repository, await manifests.resolve(repository))).descriptor.digest


def trust(certs: Path, registry: FakeRegistry, authority: Authority) -> Path:
    folder = certs / f"localhost:{registry.port}"
    folder.mkdir(parents=True)
    shutil.copy(authority.pair.certificate, folder / "any.crt")
    return folder


def test_an_authority_of_ones_own_is_trusted_as_soon_as_it_is_there(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        with pytest.raises(RegistryUnreachable, match="x509: certificate signed by unknown authority"):
            await pull(repository)
        folder = trust(tmp_path, registry, authority)
        await pull(repository)
        (folder / "any.crt").write_text("no certificate")
        with pytest.raises(errors.InvalidArgument, match=r"any\.crt: no usable certificate"):
            await pull(repository)

    run(server.server_context(), tmp_path, work)


def test_a_certificate_of_another_name_is_refused(authority: Authority, tmp_path: Path) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        trust(tmp_path, registry, authority)
        with pytest.raises(RegistryUnreachable, match="x509: certificate is not valid for this host name"):
            await pull(repository)

    run(authority.sign("other.example").server_context(), tmp_path, work)


def test_a_client_certificate_is_shown(authority: Authority, server: Pair, tmp_path: Path) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        folder = trust(tmp_path, registry, authority)
        with pytest.raises(errors.Unavailable):
            await pull(repository)
        client = authority.sign("client")
        shutil.copy(client.certificate, folder / "client.cert")
        shutil.copy(client.key, folder / "client.key")
        await pull(repository)

    run(server.server_context(clients=authority.pair), tmp_path, work)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "client.cert",
            "missing key client.key for client certificate client.cert. "
            "CA certificates must use the extension .crt",
        ),
        ("client.key", "missing client certificate client.cert for key client.key"),
    ],
)
def test_half_a_pair_is_refused_in_dockers_words(
    server: Pair, authority: Authority, tmp_path: Path, name: str, said: str
) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        (trust(tmp_path, registry, authority) / name).write_text("x")
        with pytest.raises(errors.InvalidArgument, match=f"^{re.escape(said)}$"):
            await pull(repository)

    run(server.server_context(), tmp_path, work)


def test_what_the_registry_trusts_is_trusted_elsewhere_but_its_client_certificate_stays_with_it(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    """A redirect and a token service on another port: same authority, no client certificate."""
    shown: list[object] = []

    async def work(registry: FakeRegistry, repository: Repository) -> None:
        folder = trust(tmp_path, registry, authority)
        client = authority.sign("client")
        shutil.copy(client.certificate, folder / "client.cert")
        shutil.copy(client.key, folder / "client.key")
        other_context = server.server_context(clients=authority.pair)
        other_context.verify_mode = ssl.CERT_OPTIONAL
        async with FakeRegistry(context=other_context) as other:

            async def issue(request: web.Request) -> web.StreamResponse:
                assert request.transport is not None
                shown.append(request.transport.get_extra_info("peercert"))
                return web.json_response({"token": "t"})

            async def guard(request: web.Request) -> web.StreamResponse:
                assert request.transport is not None
                assert request.transport.get_extra_info("peercert")
                if request.headers.get("Authorization") == "Bearer t":
                    return registry.usual(request)
                challenge = f'Bearer realm="https://localhost:{other.port}/token",service="s"'
                return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate=challenge)

            other.on("/token", issue)
            registry.on("", guard)
            await pull(repository)

    run(server.server_context(clients=authority.pair), tmp_path, work)
    assert len(shown) == 1 and not shown[0]
