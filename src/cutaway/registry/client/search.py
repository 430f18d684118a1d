"""Searching a registry's index: Docker Hub's, and those of registries that still have one.

`GET /v1/search?q=TERM&n=LIMIT`: what is left of the first version of the protocol; the second has no search.
Source: moby's API description (ImageSearch) and Docker Hub's own answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from yarl import URL

from cutaway import errors
from cutaway.registry.client import auth
from cutaway.registry.client.client import RegistryClient
from cutaway.registry.client.failures import one_line
from cutaway.registry.client.settings import Credentials, Endpoint, endpoint_of
from cutaway.registry.client.transport import AUTHORIZATION, read_bounded
from cutaway.registry.reference import DEFAULT_DOMAIN, LEGACY_DEFAULT_DOMAIN, OFFICIAL, is_domain

MAX_REPLY: Final = 4 << 20


@dataclass(frozen=True)
class Found:
    """One repository that was found."""

    name: str
    description: str
    stars: int
    official: bool
    automated: bool


async def search(client: RegistryClient, term: str, limit: int, credentials: Credentials) -> list[Found]:
    """What an index has for a term, `[HOST[:PORT]/]WORDS`; Docker Hub's without a host.

    Raises `InvalidArgument` for what is no term, `Unavailable` when there is no connection, `Unknown` for a
    registry that has no index.
    """
    if "://" in term:
        raise errors.InvalidArgument(
            f"invalid repository name: repository name ({term}) should not have a scheme"
        )
    domain, words = _split(term)
    if domain == DEFAULT_DOMAIN:
        endpoint = Endpoint(domain, (client.settings.search_index,))
        words = words.removeprefix(OFFICIAL)
    elif is_domain(domain):
        endpoint = endpoint_of(domain, client.settings)
    else:
        raise errors.InvalidArgument(f"invalid registry host {one_line(domain)!r}")
    return _read(await _ask(client, endpoint, {"q": words, "n": str(limit)}, credentials))


def _split(term: str) -> tuple[str, str]:
    host, slash, rest = term.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return (DEFAULT_DOMAIN if host == LEGACY_DEFAULT_DOMAIN else host), rest
    return DEFAULT_DOMAIN, term


async def _ask(
    client: RegistryClient, endpoint: Endpoint, query: dict[str, str], credentials: Credentials
) -> bytes:
    failure: errors.Unavailable | None = None
    headers = {AUTHORIZATION: auth.basic(credentials)} if credentials.password else {}
    for base in endpoint.urls:
        url = URL(f"{base}/v1/search").with_query(query)
        try:
            async with client.transport.open(endpoint, "GET", str(url), headers) as response:
                if response.status != 200:
                    raise errors.Unknown(f"Unexpected status code {response.status}")
                return await read_bounded(response, MAX_REPLY, "the search's result")
        except errors.Unavailable as error:
            failure = error
    assert failure is not None
    raise failure


def _read(data: bytes) -> list[Found]:
    try:
        results = json.loads(data)["results"]
        return [_found(result) for result in results]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise errors.Unknown("the registry's answer to the search is none") from None


def _found(result: dict[str, object]) -> Found:
    stars = result.get("star_count")
    return Found(
        one_line(str(result["name"])),
        one_line(str(result.get("description") or "")),
        stars if isinstance(stars, int) else 0,
        result.get("is_official") is True,
        result.get("is_automated") is True,
    )


@dataclass(frozen=True)
class Wanted:
    """Filters of a search."""

    official: bool | None = None
    automated: bool | None = None
    stars: int = 0

    def chosen(self, found: Iterable[Found]) -> list[Found]:
        return [one for one in found if self._fits(one)]

    def _fits(self, one: Found) -> bool:
        return (
            one.stars >= self.stars
            and self.official in (None, one.official)
            and self.automated in (None, one.automated)
        )
