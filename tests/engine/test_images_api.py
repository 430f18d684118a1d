"""Images over the Engine API: the pull's stream and its end, statuses and texts."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cutaway.engine.api.images import routes
from cutaway.engine.api.middleware import around
from cutaway.engine.images import ImageService, User
from engine.image_stack import BOTH, Stack, running
from registry.fake import NAME, FakeRegistry, refusal, small_image
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [
    pytest.mark.root,
    pytest.mark.peers,
    # Typed request keys are newer than the oldest aiohttp that we support.
    pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey"),
]

Client = TestClient[web.Request, web.Application]
LOWERCASE = "invalid reference format: repository name (library/Foo) must be lowercase"
PLATFORM = '"1/2/3/4": invalid platform: expected os/arch[/variant]'
Told = list[tuple[str, str, dict[str, str]]]


@pytest.fixture(scope="module", params=BOTH)
def containerd(
    request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs
) -> Iterator[Containerd]:
    yield from running(request.param, session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


def serve(
    stack: Stack,
    work: Callable[[Client, FakeRegistry, Told], Awaitable[None]],
    users: dict[str, list[User]] | None = None,
) -> None:
    """Run a test's coroutine with a client of the image routes."""
    told: Told = []

    async def main(images: ImageService, registry: FakeRegistry) -> None:
        app = web.Application(middlewares=[around])
        app.router.add_routes(
            routes(
                images,
                users=lambda image_id: (users or {}).get(image_id, []),
                tell=lambda action, object_id, attributes: told.append((action, object_id, attributes)),
            )
        )
        async with TestClient(TestServer(app, handler_cancellation=True)) as client:
            await work(client, registry, told)

    stack.run(main)


async def pull(client: Client, registry: FakeRegistry, tag: str = "1", **headers: str) -> tuple[int, str]:
    """The status and the body of a pull."""
    query = {"fromImage": f"{registry.host}/{NAME}", "tag": tag}
    async with client.post("/images/create", params=query, headers=headers) as response:
        return response.status, await response.text()


async def message(client: Client, method: str, path: str, **options: object) -> tuple[int, str]:
    async with client.request(method, path, **options) as response:  # type: ignore[arg-type]
        return response.status, (await response.json())["message"]


def test_pull_is_a_stream_of_lines(stack: Stack) -> None:
    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        registry.add(small_image("stream"))
        status, body = await pull(client, registry)
        assert status == 200 and body.endswith("\r\n")
        lines = [json.loads(line) for line in body.removesuffix("\r\n").split("\r\n")]
        assert lines[0] == {"status": f"Pulling from {NAME}", "id": "1"}
        assert lines[-1] == {"status": f"Status: Downloaded newer image for {registry.reference()}"}
        assert told == [("pull", registry.reference(), {"name": registry.reference().rpartition(":")[0]})]

    serve(stack, work)


def test_failure_before_the_first_line_is_a_status(stack: Stack) -> None:
    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        status, body = await pull(client, registry)
        assert status == 404
        assert json.loads(body)["message"] == (
            f"manifest for {registry.reference()} not found: manifest unknown: manifest unknown"
        )

    serve(stack, work)


def test_failure_after_it_is_a_line(stack: Stack) -> None:
    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        image = small_image("breaks")
        registry.add(image)
        registry.blobs[image.blobs()[1].digest] = bytes(len(image.blobs()[1].data))
        status, body = await pull(client, registry)
        last = json.loads(body.removesuffix("\r\n").split("\r\n")[-1])
        text = f"filesystem layer verification failed for digest {image.blobs()[1].digest}"
        assert status == 200 and last == {"errorDetail": {"message": text}, "error": text}
        assert told == []

    serve(stack, work)


def test_client_that_goes_away_ends_the_pull(stack: Stack) -> None:
    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        image = small_image("left alone")
        begun, ended = asyncio.Event(), asyncio.Event()
        registry.add(image)

        async def hang(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = len(image.blobs()[1].data)
            await response.prepare(request)
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return response

        registry.on(image.blobs()[1].digest, hang)
        query = {"fromImage": registry.reference()}
        async with client.post("/images/create", params=query) as response:
            await asyncio.wait_for(begun.wait(), 20)
            response.close()
        await asyncio.wait_for(ended.wait(), 20)

    serve(stack, work)
    assert not any(stack.left().values())


def test_credentials_of_the_request_are_used(stack: Stack) -> None:
    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        registry.add(small_image("private"))
        basic = "Basic " + base64.b64encode(b"ann:secret").decode()

        async def guard(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") == basic:
                return registry.usual(request)
            return refusal(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate="Basic")

        registry.on("", guard)
        login = json.dumps({"username": "ann", "password": "secret"}).encode()
        header = {"X-Registry-Auth": base64.urlsafe_b64encode(login).decode()}
        assert (await pull(client, registry, "1", **header))[0] == 200
        status, body = await pull(client, registry, "1", **{"X-Registry-Auth": "e30="})
        said = f'Head "http://{registry.host}/v2/{registry.name}/manifests/1": no basic auth credentials'
        assert (status, json.loads(body)["message"]) == (500, said)
        for bad in ("%%%", "W10=", base64.urlsafe_b64encode(b'{"username": 7}').decode()):
            status, body = await pull(client, registry, "1", **{"X-Registry-Auth": bad})
            assert status == 400 and "X-Registry-Auth" in body

    serve(stack, work)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/images/create?fromImage=Foo", (400, LOWERCASE)),
        ("POST", "/images/create", (400, "invalid reference format")),
        ("POST", "/images/create?fromImage=x&tag=a/b", (400, "invalid tag format")),
        ("POST", "/images/create?fromImage=x&platform=1/2/3/4", (400, PLATFORM)),
        ("POST", "/images/create?fromSrc=-&changes=RUN+x", (400, "run is not a valid change command")),
        ("GET", "/images/nothing/json", (404, "No such image: nothing:latest")),
        ("GET", "/images/a/b/c:1/history", (404, "No such image: a/b/c:1")),
        ("DELETE", "/images/nothing", (404, "No such image: nothing:latest")),
        ("POST", "/images/nothing/tag?repo=x", (404, "No such image: nothing:latest")),
        ("GET", "/images/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", (400, "invalid filter 'x'")),
    ],
)  # fmt: skip
def test_refusals(stack: Stack, method: str, path: str, expected: tuple[int, str]) -> None:
    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        assert await message(client, method, path) == expected

    serve(stack, work)


def test_life_of_an_image(stack: Stack) -> None:
    users: dict[str, list[User]] = {}

    async def work(client: Client, registry: FakeRegistry, told: Told) -> None:
        image = small_image("a life")
        registry.add(image)
        await pull(client, registry)
        name = registry.reference()
        async with client.post(f"/images/{name}/tag?repo=mine&tag=2") as response:
            assert response.status == 201
        async with client.get("/images/json") as response:
            (item,) = await response.json()
        assert item["RepoTags"] == [name, "mine:2"]
        async with client.get("/images/mine:2/json") as response:
            shown = await response.json()
        assert (shown["Id"], shown["Config"]["Cmd"]) == (image.id, ["x"])
        assert shown["RootFS"]["Layers"] == [image.layers[0].diff_id]
        async with client.get(f"/images/{image.id}/history") as response:
            (entry,) = await response.json()
        assert (entry["Id"], entry["CreatedBy"]) == (image.id, "a test")
        users[image.id] = [User("7" * 64, running=True)]
        status, text = await message(client, "DELETE", f"/images/{image.id[7:19]}?force=1")
        assert status == 409 and "image is being used by running container 777777777777" in text
        users.clear()
        async with client.delete("/images/mine:2") as response:
            assert (await response.json())[0] == {"Untagged": "mine:2"}
        async with client.delete(f"/images/{name}") as response:
            assert {"Deleted": image.id} in await response.json()
        assert [action for action, _, _ in told] == ["pull", "tag", "untag", "untag", "delete"]

    serve(stack, work, users)
