"""Our client and engine against docker-registry: with TLS and passwords, and with real tokens."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import manifests, uploads
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.login import log_in
from cutaway.registry.client.manifests import Fetched
from cutaway.registry.client.settings import ClientSettings, Credentials
from cutaway.registry.client.tags import tags
from cutaway.registry.reference import parse
from registry.fake import small_image
from support import tokens
from support.certificates import Authority
from support.images import Blob, Image
from support.netns import NetNs
from support.peers import need, peer
from support.stack import GuardedRegistry, RealRegistry
from support.tokens import TokenService

pytestmark = [pytest.mark.root, pytest.mark.peers]

# Not loopback, where certificates are not looked at.
ADDRESS = "10.99.0.1"
Work = Callable[[RegistryClient], Awaitable[None]]
ANN = Credentials(username=tokens.USER, password=tokens.PASSWORD)


@pytest.fixture(scope="module")
def place() -> Iterator[NetNs]:
    """A network namespace with an address besides loopback."""
    need("docker-registry", "busybox")
    with NetNs() as netns:
        netns.run([peer("busybox"), "ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"])
        yield netns


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


def run(netns: NetNs, work: Work, settings: ClientSettings | None = None) -> None:
    """Run a test's coroutine with a client, inside the namespace."""

    async def main() -> None:
        client = RegistryClient(settings or ClientSettings(retry_delays=(0.05, 0.1)))
        try:
            await asyncio.wait_for(work(client), 60)
        finally:
            await client.close()

    netns.call(asyncio.run, main())


async def push(repository: Repository, image: Image, tag: str) -> str:
    for blob in image.blobs():
        await uploads.upload_blob(repository, descriptor(blob), partial(pieces, blob))
    manifest = image.manifest()
    await uploads.put_manifest(repository, Fetched(descriptor(manifest), manifest.data), tag)
    return manifest.digest


async def pieces(blob: Blob, offset: int) -> AsyncIterator[bytes]:
    yield blob.data[offset:]


def descriptor(blob: Blob) -> Descriptor:
    return Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.data))


async def pull(repository: Repository) -> str:
    return (await manifests.fetch(repository, await manifests.resolve(repository))).descriptor.digest


class TlsRegistry(GuardedRegistry):
    """docker-registry with HTTPS and passwords; with `clients`, only for those whose certificate it knows."""

    address = ADDRESS

    def __init__(self, base: Path, netns: NetNs, authority: Authority, *, clients: bool, name: str) -> None:
        super().__init__(base, netns, name=name)
        self.authority, self.clients = authority, clients

    def prepare(self) -> None:
        pair = self.authority.sign(self.folder.name, f"IP:{ADDRESS}")
        super().prepare()
        tls = f"  tls:\n    certificate: {pair.certificate}\n    key: {pair.key}\n"
        if self.clients:
            tls += f"    clientcas:\n      - {self.authority.pair.certificate}\n"
        config = self.folder / "config.yml"
        config.write_text(config.read_text().replace("  secret:", f"{tls}  secret:"))


@pytest.fixture(params=[False, True], ids=["server", "mutual"])
def tls_registry(
    request: pytest.FixtureRequest, base_dir: Path, place: NetNs, authority: Authority
) -> Iterator[TlsRegistry]:
    with TlsRegistry(base_dir, place, authority, clients=request.param, name="tls") as running:
        yield running


def test_tls_and_passwords(tls_registry: TlsRegistry, authority: Authority, tmp_path: Path) -> None:
    """One step after the other, each with the refusal that comes without it."""
    host = tls_registry.host
    login = Credentials(username=tls_registry.user, password=tls_registry.password)
    folder = tmp_path / host

    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{host}/team/app:1"), login, push=True)
        with pytest.raises(errors.Unavailable, match="x509: certificate signed by unknown authority"):
            await pull(there)
        folder.mkdir()
        shutil.copy(authority.pair.certificate, folder / "ca.crt")
        if tls_registry.clients:
            with pytest.raises(errors.Unavailable, match=r"remote error: tls: .*certificate"):
                await pull(there)
            pair = authority.sign("client")
            shutil.copy(pair.certificate, folder / "client.cert")
            shutil.copy(pair.key, folder / "client.key")
        with pytest.raises(errors.Unknown, match="no basic auth credentials"):
            await pull(client.repository(parse(f"{host}/team/app:1")))
        wrong = Credentials(username=tls_registry.user, password="x")
        with pytest.raises(errors.Unauthenticated, match="unauthorized: authentication required"):
            await pull(client.repository(parse(f"{host}/team/app:1"), wrong))
        with pytest.raises(errors.Unauthenticated, match="401 Unauthorized"):
            await log_in(client, host, wrong)
        assert await log_in(client, host, login) == ""
        digest = await push(there, small_image(), "1")
        assert await pull(there) == digest
        assert await tags(there) == ["1"]

    run(tls_registry.netns, work, ClientSettings(certs_dir=tmp_path, retry_delays=(0.05,)))


@pytest.fixture(scope="module")
def service(place: NetNs, authority: Authority) -> Iterator[TokenService]:
    with TokenService(place, authority.sign("signer")) as running:
        yield running


@pytest.fixture(scope="module")
def believer(
    session_base: Path, place: NetNs, authority: Authority, service: TokenService
) -> Iterator[RealRegistry]:
    config = service.config(authority.pair.certificate)
    with RealRegistry(session_base, place, name="tokens", extra_config=config) as running:
        yield running


@pytest.fixture(autouse=True)
def afresh(request: pytest.FixtureRequest) -> None:
    """Forget what the token service was asked before."""
    if "service" in request.fixturenames:
        service: TokenService = request.getfixturevalue("service")
        service.asked.clear()
        service.methods, service.lifetime = ("GET", "POST"), 300


def test_tokens_for_pushing_mounting_and_pulling(believer: RealRegistry, service: TokenService) -> None:
    host = believer.host

    async def work(client: RegistryClient) -> None:
        image = small_image("tokens")
        owner = client.repository(parse(f"{host}/public/app:1"), ANN, push=True)
        digest = await push(owner, image, "1")
        assert [asked.scopes for asked in service.asked] == [["repository:public/app:pull,push"]]
        target = client.repository(parse(f"{host}/team/app:1"), ANN, push=True, mount_from=["public/app"])
        for blob in image.blobs():
            assert await uploads.mount_blob(target, blob.digest, "public/app")
        assert service.asked[-1].scopes == ["repository:team/app:pull,push", "repository:public/app:pull"]
        assert len(service.asked) == 2
        # Anybody may pull what is public, and nothing else, nor push.
        assert await pull(client.repository(parse(f"{host}/public/app:1"))) == digest
        assert service.asked[-1].password == ""
        with pytest.raises(errors.NotFound, match=r"^pull access denied for .*/team/app, repository"):
            await pull(client.repository(parse(f"{host}/team/app:1")))
        with pytest.raises(errors.CutawayError, match="denied: requested access to the resource is denied"):
            await push(client.repository(parse(f"{host}/public/app:2"), push=True), image, "2")

    run(believer.netns, work)


def test_a_wrong_password_is_told_in_the_services_words(
    believer: RealRegistry, service: TokenService
) -> None:
    async def work(client: RegistryClient) -> None:
        wrong = Credentials(username="ann", password="x")
        with pytest.raises(errors.Unauthenticated, match=r"^unauthorized: incorrect username or password$"):
            await pull(client.repository(parse(f"{believer.host}/public/app:1"), wrong))

    run(believer.netns, work)


def test_an_identity_token_takes_the_passwords_place(believer: RealRegistry, service: TokenService) -> None:
    async def work(client: RegistryClient) -> None:
        identity = await log_in(client, believer.host, ANN)
        assert identity == service.identity
        service.asked.clear()
        kept = Credentials(username="<token>", identity_token=identity)
        await push(
            client.repository(parse(f"{believer.host}/team/kept:1"), kept, push=True),
            small_image(),
            "1",
        )
        (asked,) = service.asked
        assert (asked.method, asked.one("grant_type"), asked.password) == ("POST", "refresh_token", "")

    run(believer.netns, work)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_service_that_takes_passwords_by_one_method_only(
    believer: RealRegistry, service: TokenService, method: str
) -> None:
    service.methods = (method,)

    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{believer.host}/team/method:1"), ANN, push=True)
        digest = await push(there, small_image(), "1")
        assert await pull(there) == digest

    run(believer.netns, work)


def test_a_token_is_asked_for_again_when_it_is_over(believer: RealRegistry, service: TokenService) -> None:
    service.lifetime = 1

    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{believer.host}/team/short:1"), ANN, push=True)
        await push(there, small_image(), "1")
        assert len(service.asked) > 2

    run(believer.netns, work)


def test_requests_at_one_time_ask_for_one_token(believer: RealRegistry, service: TokenService) -> None:
    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{believer.host}/team/many:1"), ANN, push=True)
        missing = [f"sha256:{os.urandom(32).hex()}" for _ in range(8)]
        assert await asyncio.gather(*(uploads.has_blob(there, digest) for digest in missing)) == [False] * 8
        assert len(service.asked) == 1

    run(believer.netns, work)


def test_a_registry_token_is_used_as_it_is(believer: RealRegistry, service: TokenService) -> None:
    async def work(client: RegistryClient) -> None:
        there = client.repository(parse(f"{believer.host}/team/own:1"), ANN, push=True)
        digest = await push(there, small_image(), "1")
        token = await client.tokens.token(
            there.endpoint,
            (await client.contact(there.endpoint, there.reference)).challenges[0],
            there.scopes,
            ANN,
        )
        service.asked.clear()
        mine = Credentials(registry_token=token)
        assert await pull(client.repository(there.reference, mine)) == digest
        assert not service.asked
        with pytest.raises(errors.NotFound, match="pull access denied"):
            await pull(client.repository(parse(f"{believer.host}/team/other:1"), mine))

    run(believer.netns, work)
