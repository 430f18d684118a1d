"""Pulls by the real docker through our engine, from a docker-registry behind an nginx with its own ways."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

import pytest

from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs, uploads
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.manifests import Fetched
from cutaway.registry.client.settings import ClientSettings, Credentials
from cutaway.registry.reference import parse
from engine.engine_stack import Stack
from support.images import Blob, Image, busybox_image, tar, with_layers
from support.nginx import OVER, Nginx
from support.peers import need
from support.process import wait_until
from support.stack import GuardedRegistry, UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.peers]

LOGIN = Credentials(username=GuardedRegistry.user, password=GuardedRegistry.password)
NOISE = os.urandom(3 << 20)  # bytes that no compression makes fewer


@pytest.fixture(scope="module")
def guarded(shared_stack: Stack) -> Iterator[GuardedRegistry]:
    need("docker-registry", "nginx")
    with GuardedRegistry(shared_stack.engine.folder, shared_stack.netns) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(shared_stack: Stack, guarded: GuardedRegistry) -> Iterator[Nginx]:
    """nginx, with the same image in every repository, and docker logged in at it."""
    with Nginx(shared_stack.engine.folder, shared_stack.netns, guarded) as running:
        run(shared_stack, partial(push_all, guarded))
        words = ("login", "-u", guarded.user, "--password-stdin", running.host)
        shared_stack.docker(*words, input=guarded.password)
        yield running


def run(stack: Stack, work: Callable[[RegistryClient], Awaitable[None]]) -> None:
    async def main() -> None:
        client = RegistryClient(ClientSettings())
        try:
            await asyncio.wait_for(work(client), 60)
        finally:
            await client.close()

    stack.netns.call(asyncio.run, main())


def image() -> Image:
    return with_layers(busybox_image(), tar({"noise": NOISE}))


async def push_all(registry: GuardedRegistry, client: RegistryClient) -> None:
    for name in ("slow", "limited", "moved", "over"):
        there = client.repository(parse(f"{registry.host}/{name}/app:1"), LOGIN, push=True)
        for blob in image().blobs():
            await uploads.upload_blob(there, descriptor(blob), partial(pieces, blob))
        manifest = image().manifest()
        await uploads.put_manifest(there, Fetched(descriptor(manifest), manifest.data), "1")


async def pieces(blob: Blob, offset: int) -> AsyncIterator[bytes]:
    yield blob.data[offset:]


def descriptor(blob: Blob) -> Descriptor:
    return Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.data))


@pytest.fixture(autouse=True)
def without_images(shared_stack: Stack) -> Iterator[None]:
    """Fetch everything afresh."""
    yield
    for name in shared_stack.docker("images", "-q", "--filter", "reference=*/*/app").split():
        shared_stack.docker("rmi", "-f", name)
    shared_stack.containerd.ctr("content", "prune", "references", namespace="moby", check=False)


def test_limits_that_pass_are_waited_for(shared_stack: Stack, nginx: Nginx) -> None:
    said = shared_stack.docker("pull", f"{nginx.host}/limited/app:1")
    assert f"Status: Downloaded newer image for {nginx.host}/limited/app:1" in said
    assert nginx.seen(nginx.port, " 429 ", "/v2/limited/")


def test_limits_that_last_are_told(shared_stack: Stack, nginx: Nginx) -> None:
    code, said = shared_stack.fails("pull", f"{nginx.host}/over/app:1")
    assert (code, said) == (1, f"Error response from daemon: toomanyrequests: {OVER}\n")


def test_blobs_elsewhere_are_fetched_without_the_password(shared_stack: Stack, nginx: Nginx) -> None:
    shared_stack.docker("pull", f"{nginx.host}/moved/app:1")
    elsewhere = nginx.seen(nginx.other_port, " 200 ", "/v2/moved/app/blobs/")
    assert all("authorization=- " in line for line in elsewhere)
    assert all("authorization=Basic " in line for line in nginx.seen(nginx.port, " 307 "))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loop", "stopped after 5 redirects"),
        ("file", "redirect of 127.0.0.1 to file:///etc/passwd refused: not an http(s) URL"),
        ("plain", "connect: connection refused"),
    ],
)
def test_redirects_that_lead_nowhere(shared_stack: Stack, nginx: Nginx, name: str, said: str) -> None:
    assert said in shared_stack.fails("pull", f"{nginx.host}/{name}/app:1")[1]


def test_a_blob_that_nginx_cuts_is_taken_up_where_it_was(shared_stack: Stack, nginx: Nginx) -> None:
    blob = max(image().blobs(), key=lambda one: len(one.data))

    async def work(client: RegistryClient) -> None:
        there: Repository = client.repository(parse(f"{nginx.host}/slow/app:1"), LOGIN)
        received = b""
        async for piece in blobs.stream(there, descriptor(blob)):
            if not received:
                nginx.reload()
            received += piece
        assert received == blob.data

    run(shared_stack, work)
    assert nginx.seen(nginx.port, " 206 bytes=", blob.digest)


def test_a_client_that_goes_away_ends_the_pull(shared_stack: Stack, nginx: Nginx) -> None:
    """The layer in the middle is not fetched to its end, and nothing of it is left."""
    blob = max(image().blobs(), key=lambda one: len(one.data))
    login = json.dumps({"username": LOGIN.username, "password": LOGIN.password}).encode()
    headers = {"X-Registry-Auth": base64.urlsafe_b64encode(login).decode()}
    connection = UnixConnection(shared_stack.engine.socket)
    query = f"fromImage={nginx.host}/slow/app&tag=1"
    connection.request("POST", f"/images/create?{query}", headers=headers)
    answer = connection.getresponse()
    while b'"Downloading"' not in answer.readline():
        assert not answer.closed
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    (line,) = nginx.seen(nginx.port, " 200 - ", f"/v2/slow/app/blobs/{blob.digest} ")
    assert int(line.rpartition(" ")[2]) < len(blob.data)
    wait_until(lambda: not unfinished(shared_stack), "the unfinished write is gone")
    assert "slow/app" not in shared_stack.docker("images")


def unfinished(stack: Stack) -> list[str]:
    """What containerd is being written."""
    text = stack.containerd.ctr("content", "active", namespace="moby").stdout
    return [line for line in text.splitlines()[1:] if line.strip()]
