"""cutaway-registry from within: its API's corners, its storage, and where it refuses to listen."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cutaway import errors
from cutaway.registry.hello import image as hello
from cutaway.registry.main import parse_address
from cutaway.registry.server import failures
from cutaway.registry.server.app import add_hello, make_app
from cutaway.registry.server.failures import Refusal
from cutaway.registry.server.storage import Storage

Client = TestClient[web.Request, web.Application]
DATA = b"some bytes" * 100
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def serve(root: Path, work: Callable[[Client], Awaitable[None]], *, read_only: bool = False) -> None:
    """Run a test's coroutine with a client of a registry over a folder."""

    async def main() -> None:
        storage = Storage(root)
        add_hello(storage)
        async with TestClient(TestServer(make_app(storage, read_only=read_only))) as client:
            await work(client)

    asyncio.run(main())


async def code(client: Client, method: str, path: str, **options: object) -> tuple[int, str]:
    """The status and the first error code of an answer."""
    async with client.request(method, path, **options) as response:  # type: ignore[arg-type]
        return response.status, (await response.json(content_type=None))["errors"][0]["code"]


async def start(client: Client, name: str = "a/b") -> str:
    async with client.post(f"/v2/{name}/blobs/uploads/") as response:
        assert response.status == 202
        return response.headers["Location"]


def test_upload_in_chunks_can_be_resumed(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        there = await start(client)
        async with client.patch(there, data=DATA[:400], headers={"Content-Range": "0-399"}) as response:
            assert (response.status, response.headers["Range"]) == (202, "0-399")
        assert await code(client, "PATCH", there, data=b"x", headers={"Content-Range": "7-7"}) == (
            416,
            "BLOB_UPLOAD_INVALID",
        )
        async with client.get(there) as response:
            assert (response.status, response.headers["Range"]) == (204, "0-399")
        async with client.put(f"{there}?digest={DIGEST}", data=DATA[400:]) as response:
            assert (response.status, response.headers["Docker-Content-Digest"]) == (201, DIGEST)
        async with client.get(f"/v2/a/b/blobs/{DIGEST}", headers={"Range": "bytes=5-9"}) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes 5-9/{len(DATA)}"
            assert await response.read() == DATA[5:10]
        async with client.head(f"/v2/a/b/blobs/{DIGEST}") as response:
            assert (response.status, response.headers["Content-Length"]) == (200, str(len(DATA)))

    serve(tmp_path, work)


def test_upload_in_one_request_and_mount(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        async with client.post(f"/v2/a/blobs/uploads/?digest={DIGEST}", data=DATA) as response:
            assert response.status == 201
        assert (await code(client, "GET", f"/v2/b/blobs/{DIGEST}")) == (404, "BLOB_UNKNOWN")
        async with client.post(f"/v2/b/blobs/uploads/?mount={DIGEST}&from=a") as response:
            assert response.status == 201
        async with client.post(f"/v2/c/blobs/uploads/?mount={DIGEST}&from=nowhere") as response:
            assert response.status == 202  # an upload instead
        async with client.get(f"/v2/b/blobs/{DIGEST}") as response:
            assert await response.read() == DATA

    serve(tmp_path, work)


def test_upload_with_another_digest_is_gone(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        there = await start(client)
        answer = await code(client, "PUT", f"{there}?digest={DIGEST}", data=b"other")
        assert answer == (400, "DIGEST_INVALID")
        assert await code(client, "GET", there) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert await code(client, "GET", f"/v2/a/b/blobs/{DIGEST}") == (404, "BLOB_UNKNOWN")

    serve(tmp_path, work)
    assert not list((tmp_path / "uploads").iterdir())


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v2/nothing/tags/list", (404, "NAME_UNKNOWN")),
        ("GET", "/v2/nothing/manifests/latest", (404, "MANIFEST_UNKNOWN")),
        ("GET", "/v2/Upper/manifests/latest", (400, "NAME_INVALID")),
        ("GET", "/v2/a/manifests/not%20a%20tag", (400, "TAG_INVALID")),
        ("GET", "/v2/a/blobs/sha256:zz", (400, "DIGEST_INVALID")),
        ("GET", "/v2/a/%2e%2e/%2e%2e/blobs/" + DIGEST, (400, "NAME_INVALID")),
        ("POST", "/v2/_manifests/blobs/uploads/", (400, "NAME_INVALID")),
        ("PUT", f"/v2/a/blobs/uploads/{'0' * 32}?digest={DIGEST}", (404, "BLOB_UPLOAD_UNKNOWN")),
        ("PUT", f"/v2/a/blobs/uploads/..%2f..%2fx?digest={DIGEST}", (404, "BLOB_UPLOAD_UNKNOWN")),
        ("GET", "/v2/library/hello-world/tags/list?n=x", (400, "UNSUPPORTED")),
        ("GET", "/elsewhere", (404, "NOT_FOUND")),
        ("PUT", "/v2/", (404, "NOT_FOUND")),
    ],
)
def test_refusals(tmp_path: Path, method: str, path: str, expected: tuple[int, str]) -> None:
    async def work(client: Client) -> None:
        from yarl import URL

        assert await code(client, method, URL(path, encoded=True)) == expected  # type: ignore[arg-type]

    serve(tmp_path, work)


@pytest.mark.parametrize(
    ("body", "media_type", "expected"),
    [
        (b"{", "application/vnd.oci.image.manifest.v1+json", (400, "MANIFEST_INVALID")),
        (b"{}", "application/vnd.oci.image.manifest.v1+json", (400, "MANIFEST_INVALID")),
        (b"{}", "text/plain", (400, "MANIFEST_INVALID")),
        (b" " * (5 << 20), "application/vnd.oci.image.manifest.v1+json", (413, "SIZE_INVALID")),
        (
            json.dumps(
                {
                    "schemaVersion": 2,
                    "config": {"mediaType": "x", "digest": DIGEST, "size": 1},
                    "layers": [],
                }
            ).encode(),
            "application/vnd.oci.image.manifest.v1+json",
            (400, "MANIFEST_BLOB_UNKNOWN"),
        ),
    ],
)
def test_manifest_is_checked(tmp_path: Path, body: bytes, media_type: str, expected: tuple[int, str]) -> None:
    async def work(client: Client) -> None:
        path, headers = "/v2/a/manifests/1", {"Content-Type": media_type}
        assert await code(client, "PUT", path, data=io.BytesIO(body), headers=headers) == expected

    serve(tmp_path, work)
    assert Storage(tmp_path).repositories() == [hello.NAME]


def test_tags_and_catalog_come_in_pages(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        index = hello.build().index
        for tag in ("1", "2", "3"):
            path = f"/v2/{hello.NAME}/manifests/{tag}"
            async with client.put(
                path, data=index.data, headers={"Content-Type": index.media_type}
            ) as response:
                assert response.status == 201
        async with client.get(f"/v2/{hello.NAME}/tags/list?n=2") as response:
            assert (await response.json())["tags"] == ["1", "2"]
            following = response.links["next"]["url"].relative()  # type: ignore[union-attr]
        async with client.get(following) as response:
            assert (await response.json())["tags"] == ["3", "latest"]
        async with client.get("/v2/_catalog") as response:
            assert await response.json() == {"repositories": [hello.NAME]}

    serve(tmp_path, work)


def test_deleting_a_manifest_takes_its_tags_along(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        digest = hello.build().index.digest
        async with client.delete(f"/v2/{hello.NAME}/manifests/{digest}") as response:
            assert response.status == 202
        async with client.get(f"/v2/{hello.NAME}/tags/list") as response:
            assert (await response.json())["tags"] == []

    serve(tmp_path, work)


def test_referrers(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        made = hello.build()
        subject = made.manifests[0]
        config = made.blobs[0]
        document = {
            "schemaVersion": 2,
            "artifactType": "application/vnd.example.signature",
            "config": {"mediaType": "x", "digest": config.digest, "size": len(config.data)},
            "layers": [],
            "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": 1},
        }
        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        async with client.put(f"/v2/{hello.NAME}/manifests/sig", json=document, headers=headers) as response:
            assert response.headers["OCI-Subject"] == subject.digest
        async with client.get(f"/v2/{hello.NAME}/referrers/{subject.digest}") as response:
            (entry,) = (await response.json(content_type=None))["manifests"]
        assert entry["artifactType"] == "application/vnd.example.signature"

    serve(tmp_path, work)


def test_read_only_serves_and_refuses(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        async with client.get(f"/v2/{hello.NAME}/manifests/latest") as response:
            assert response.status == 200
        assert await code(client, "POST", "/v2/a/blobs/uploads/") == (403, "DENIED")
        assert await code(client, "DELETE", f"/v2/{hello.NAME}/manifests/latest") == (403, "DENIED")

    serve(tmp_path, work, read_only=True)


def test_every_error_class_has_an_answer() -> None:
    for kind in errors.all_classes():
        response = failures.answer(Refusal("CODE", kind("why")))
        assert response.status >= 400
        assert json.loads(response.text or "")["errors"][0]["message"] == "why"
        assert kind in failures._ANSWERS


@pytest.mark.parametrize("text", ["0.0.0.0:5000", "10.0.0.1:1", "example.com:80", "[::]:5000", ":5000"])
def test_listens_where_only_this_machine_reaches_it(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="only loopback or a Unix socket"):
        parse_address(text)


@pytest.mark.parametrize("text", ["5000", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix://relative"])
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="expected"):
        parse_address(text)


def test_ends_with_its_parent_and_takes_its_socket_along(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    command = [sys.executable, "-m", "cutaway.registry.main", "--listen", f"unix://{path}"]
    command += ["--root", str(tmp_path / "root"), "--with-hello", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == f"listening on unix://{path}\n"
        assert path.stat().st_mode & 0o777 == 0o600
        second = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
        assert second.returncode == 1 and "another process listens there" in second.stderr
        process.stdin.close()
        assert process.wait(20) == 0
    assert not path.exists()
