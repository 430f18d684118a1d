"""A repository's tags, page by page. Source: opencontainers/distribution-spec, "Listing Tags"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from yarl import URL

from cutaway import errors
from cutaway.registry.client.client import Repository
from cutaway.registry.client.transport import located, read_bounded
from cutaway.registry.reference import is_tag

MAX_PAGE: Final = 4 << 20
MAX_TAGS: Final = 100_000
_PAGE: Final = "tags/list?n=1000"


async def tags(repository: Repository) -> list[str]:
    """Every tag, in the registry's order. Raises `NotFound` for a repository that is not there,
    `ResourceExhausted` for more tags than anybody pulls, `Unknown` for an answer that is none."""
    found: list[str] = []
    page: str | None = _PAGE
    while page:
        async with repository.request("GET", page, {}) as response:
            data = await read_bounded(response, MAX_PAGE, "the list of tags")
            page = next_page(response.url, response.headers)
        new = _read(data)
        found += new
        if len(found) > MAX_TAGS:
            raise errors.ResourceExhausted(f"{repository.reference.familiar_name} has over {MAX_TAGS} tags")
        if not new:
            break
    return list(dict.fromkeys(found))


def _read(data: bytes) -> list[str]:
    try:
        listed = json.loads(data)["tags"] or []
    except (ValueError, RecursionError, LookupError, TypeError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) and is_tag(one) for one in listed):
        raise errors.Unknown("the registry's list of tags is not one")
    return listed


def next_page(current: URL, headers: Mapping[str, str]) -> str | None:
    """The URL in `Link: <URL>; rel="next"` (RFC 8288); only on the host that sent it."""
    link, _, rest = headers.get("Link", "").partition(">")
    if not link.startswith("<") or "next" not in rest:
        return None
    try:
        target = located(current, link[1:])
        same = target.origin() == current.origin()
    except ValueError:
        return None
    return str(target) if same and target != current else None
