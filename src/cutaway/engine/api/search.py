"""Engine API, GET /images/search. Source: moby's API description; texts and statuses are Docker's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.engine.api.body import check_filters, filters, integer, json_response
from cutaway.registry.client.search import Found, Wanted
from cutaway.registry.client.settings import Credentials

DEFAULT_LIMIT: Final = 25
MAX_LIMIT: Final = 100
KNOWN: Final = frozenset(("is-automated", "is-official", "stars"))
_BOOLEANS: Final = {"1": True, "true": True, "0": False, "false": False}

Search = Callable[[str, int, Credentials], Awaitable[list[Found]]]


async def answer(request: web.Request, search: Search, credentials: Credentials) -> web.Response:
    """The answer to a request to search; `search` does it by term, limit and login."""
    wanted = _wanted(filters(request))
    limit = integer(request, "limit", DEFAULT_LIMIT)
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise errors.InvalidArgument(f"Limit {limit} is outside the range of [1, {MAX_LIMIT}]")
    found = await search(request.query.get("term", ""), limit, credentials)
    return json_response([_item(one) for one in wanted.chosen(found)])


def _wanted(given: dict[str, list[str]]) -> Wanted:
    check_filters(given, KNOWN)
    stars = max(map(_stars, given.get("stars", [])), default=0)
    return Wanted(_boolean(given, "is-official"), _boolean(given, "is-automated"), stars)


def _stars(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise errors.InvalidArgument(f"Invalid filter 'stars={text}'") from None


def _boolean(given: dict[str, list[str]], name: str) -> bool | None:
    values = given.get(name, [])
    if not values:
        return None
    if len(values) != 1 or values[0] not in _BOOLEANS:
        shown = " ".join(values)  # as Go prints a list
        raise errors.InvalidArgument(f"Invalid filter '{name}=[{shown}]'")
    return _BOOLEANS[values[0]]


def _item(one: Found) -> dict[str, object]:
    return {
        "star_count": one.stars,
        "is_official": one.official,
        "name": one.name,
        "is_automated": one.automated,
        "description": one.description,
    }
