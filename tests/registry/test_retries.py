"""Attempts, pauses and what is taken up where it was: the registry client against one that fails to order."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.oci.image_spec import Descriptor
from cutaway.registry.client import blobs, manifests, retries
from cutaway.registry.client.client import Repository
from cutaway.registry.client.retries import Pauses, retry_after
from cutaway.registry.client.settings import Credentials
from registry.fake import FakeRegistry, refusal, run_with, small_image
from support.images import Blob

Repositories = Callable[..., Repository]

BIG = Blob("application/octet-stream", bytes(range(256)) * 4096)  # 1 MiB
CUT_AT = 300_000


async def read(repository: Repository) -> bytes:
    wanted = Descriptor(media_type=BIG.media_type, digest=BIG.digest, size=len(BIG.data))
    return b"".join([piece async for piece in blobs.stream(repository, wanted)])


@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_that_says_when_is_asked_again(status: int) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        digest, answers = registry.add(small_image()).digest, iter((status, status))

        async def limit(request: web.Request) -> web.StreamResponse:
            if next(answers, None):
                return refusal(status, "TOOMANYREQUESTS", "slow down", Retry_After="0")
            return registry.usual(request)

        registry.on("/manifests/1", limit)
        assert (await manifests.fetch(repository(), None)).descriptor.digest == digest

    run_with(work)


@pytest.mark.parametrize(
    "after", ["", "31", "99999999999999999999999", "Sat, 01 Jan 2199 00:00:00 GMT", "-1", "x"]
)
def test_a_limit_that_lasts_is_told_at_once_in_the_registrys_words(after: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def limit(request: web.Request) -> web.StreamResponse:
            said = "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"
            return refusal(429, "TOOMANYREQUESTS", said, Retry_After=after)

        registry.on("/manifests/1", limit)
        with pytest.raises(
            errors.ResourceExhausted, match=r"^toomanyrequests: You have .* rate limit\. https"
        ):
            await manifests.fetch(repository(), None)
        assert len(registry.paths()) == 2  # /v2/ and the one

    run_with(work)


def test_retry_after_as_a_number_and_as_a_date() -> None:
    assert (retry_after("0"), retry_after("17")) == (0, 17)
    assert retry_after(formatdate(1, usegmt=True)) == 0
    soon = retry_after(formatdate(time.time() + 1000, usegmt=True))
    assert soon is not None and 0 < soon <= 1000


def test_pauses_grow_are_spread_and_end() -> None:
    pauses = Pauses((1, 2, 4), longest=30)
    for delay in (1, 2, 4):
        pause = pauses.after_break()
        assert pause is not None and delay / 2 <= pause <= delay * 1.5
    assert pauses.after_break() is None
    assert Pauses((1,), 30).after_answer(429, {"Retry-After": "7"}) == 7
    assert Pauses((1,), 30).after_answer(501, {}) is None
    assert len({retries.pause((1,), 1) for _ in range(50)}) > 1


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', ""])
def test_a_cut_blob_is_taken_up_on_condition_that_it_is_the_same(etag: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        seen: list[tuple[str, str]] = []

        async def serve(request: web.Request) -> web.StreamResponse:
            start = request.headers.get("Range", "")
            seen.append((start, request.headers.get("If-Range", "")))
            if start:
                headers = {"Content-Range": f"bytes {CUT_AT}-{len(BIG.data) - 1}/{len(BIG.data)}"}
                return web.Response(status=206, body=BIG.data[CUT_AT:], headers=headers)
            return await cut(request, {"ETag": etag} if etag else {})

        registry.on(f"/blobs/{BIG.digest}", serve)
        assert await read(repository()) == BIG.data
        assert seen == [("", ""), (f"bytes={CUT_AT}-", '"one"' if etag == '"one"' else "")]

    run_with(work)


async def cut(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    """The start of the blob, then nothing."""
    response = web.StreamResponse(headers={"Content-Length": str(len(BIG.data)), **headers})
    await response.prepare(request)
    await response.write(BIG.data[:CUT_AT])
    assert request.transport is not None
    request.transport.close()
    return response


def test_a_blob_that_has_become_another_is_read_afresh_and_found_wrong() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def serve(request: web.Request) -> web.StreamResponse:
            if "Range" in request.headers:
                return web.Response(body=bytes(len(BIG.data)), headers={"ETag": '"two"'})
            return await cut(request, {"ETag": '"one"'})

        registry.on(f"/blobs/{BIG.digest}", serve)
        with pytest.raises(errors.DataLoss, match="verification failed"):
            await read(repository())

    run_with(work)


@pytest.mark.parametrize(
    "answer", ["", "bytes 0-9/10", "bytes */10", f"bytes {CUT_AT + 1}-2/3", "kilobytes 1-2/3"]
)
def test_another_part_than_the_one_asked_for_is_refused(answer: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def serve(request: web.Request) -> web.StreamResponse:
            if "Range" in request.headers:
                return web.Response(status=206, body=BIG.data[CUT_AT:], headers={"Content-Range": answer})
            return await cut(request, {})

        registry.on(f"/blobs/{BIG.digest}", serve)
        with pytest.raises(errors.DataLoss, match=f"asked for what follows byte {CUT_AT}, got "):
            await read(repository())

    run_with(work)


def test_a_blob_that_is_cut_again_and_again_is_given_up() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def serve(request: web.Request) -> web.StreamResponse:
            if "Range" in request.headers:
                assert request.transport is not None
                request.transport.abort()
            return await cut(request, {})

        registry.on(f"/blobs/{BIG.digest}", serve)
        with pytest.raises(errors.DataLoss, match=f"was cut at {CUT_AT} of {len(BIG.data)} bytes: "):
            await read(repository())

    run_with(work, max_resumes=2)


def test_a_registry_that_is_gone_while_a_blob_is_read_is_waited_for() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def serve(request: web.Request) -> web.StreamResponse:
            if len(registry.paths()) < 4:
                return await cut(request, {}) if "Range" not in request.headers else web.Response(status=502)
            return web.Response(body=BIG.data)

        registry.on(f"/blobs/{BIG.digest}", serve)
        assert await read(repository()) == BIG.data

    run_with(work, retry_delays=())


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a b", "\x00", "é"])
def test_a_token_that_would_be_another_header_is_refused(token: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.add(small_image())
        with pytest.raises(errors.InvalidArgument, match="invalid registry token"):
            await manifests.fetch(repository(credentials=Credentials(registry_token=token)), None)
        assert registry.paths() == ["/v2/"]

    run_with(work)
