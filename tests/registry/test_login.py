"""Logging in and listing tags by the registry client, against a registry that does what it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.registry.client.client import Repository
from cutaway.registry.client.login import log_in
from cutaway.registry.client.settings import Credentials
from cutaway.registry.client.tags import MAX_TAGS, tags
from registry.fake import NAME, FakeRegistry, refusal, run_with

Repositories = Callable[..., Repository]

LOGIN = Credentials(username="ann", password="secret")
GOOD = "Basic YW5uOnNlY3JldA=="


def guard(registry: FakeRegistry, challenge: str) -> None:
    """Let only the right password in."""

    async def ping(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == GOOD:
            return web.json_response({})
        return refusal(401, "UNAUTHORIZED", "no", WWW_Authenticate=challenge)

    registry.on("/v2/", ping)


def test_basic_login() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        guard(registry, 'Basic realm="x"')
        client = repository().client
        assert await log_in(client, registry.host, LOGIN) == ""
        with pytest.raises(errors.Unauthenticated) as caught:
            await log_in(client, registry.host, Credentials(username="ann", password="x"))
        said = f"login attempt to http://{registry.host}/v2/ failed with status: 401 Unauthorized"
        assert str(caught.value) == said

    run_with(work)


@pytest.mark.parametrize("kept", ["", "to be kept"])
def test_token_login_gets_what_can_be_kept(kept: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        asked: list[web.Request] = []

        async def issue(request: web.Request) -> web.StreamResponse:
            asked.append(request)
            if request.headers.get("Authorization") != GOOD:
                return refusal(401, "UNAUTHORIZED", "incorrect username or password")
            return web.json_response({"token": "t", "refresh_token": kept} if kept else {"token": "t"})

        registry.on("/token", issue)
        guard(registry, f'Bearer realm="http://{registry.host}/token",service="s"')
        client = repository().client
        assert await log_in(client, registry.host, LOGIN) == kept
        query = dict(asked[0].query)
        assert query == {"account": "ann", "client_id": "cutaway", "offline_token": "true", "service": "s"}
        with pytest.raises(errors.Unauthenticated, match="incorrect username or password"):
            await log_in(client, registry.host, Credentials(username="ann", password="x"))

    run_with(work)


def test_a_registry_that_is_not_there_is_said() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        with pytest.raises(errors.Unavailable, match="connection refused"):
            await log_in(repository().client, "127.0.0.1:1", LOGIN)

    run_with(work)


def test_tags_come_page_by_page() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            assert request.query["n"] == "1000"
            if request.query.get("last") == "b":
                return web.json_response({"name": NAME, "tags": ["c", "a"]})
            link = f'</v2/{NAME}/tags/list?n=1000&last=b>; rel="next"'
            return web.json_response({"name": NAME, "tags": ["a", "b"]}, headers={"Link": link})

        registry.on("/tags/list", listed)
        assert await tags(repository()) == ["a", "b", "c"]

    run_with(work)


def test_no_tags_are_an_empty_list() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            return web.json_response({"name": NAME, "tags": None})

        registry.on("/tags/list", listed)
        assert await tags(repository()) == []

    run_with(work)


@pytest.mark.parametrize(
    "answer", ["[]", "{", '{"tags": "x"}', '{"tags": ["a b"]}', '{"tags": [1]}', "[" * 99999]
)
def test_what_is_no_list_of_tags_is_refused(answer: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            return web.Response(text=answer)

        registry.on("/tags/list", listed)
        with pytest.raises(errors.Unknown, match="list of tags is not one"):
            await tags(repository())

    run_with(work)


def test_a_list_without_end_is_given_up() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            page = int(request.query.get("page", "0"))
            link = f'</v2/{NAME}/tags/list?n=1000&page={page + 1}>; rel="next"'
            new = [f"{page}-{number}" for number in range(MAX_TAGS // 4)]
            return web.json_response({"tags": new}, headers={"Link": link})

        registry.on("/tags/list", listed)
        with pytest.raises(errors.ResourceExhausted, match="over 100000 tags"):
            await tags(repository())

    run_with(work)


@pytest.mark.parametrize("link", ["http://127.0.0.2:9/x", "file:///etc/passwd", "http://[bad"])
def test_the_next_page_is_on_the_same_host(link: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            return web.json_response({"tags": ["a"]}, headers={"Link": f'<{link}>; rel="next"'})

        registry.on("/tags/list", listed)
        assert await tags(repository()) == ["a"]

    run_with(work)
