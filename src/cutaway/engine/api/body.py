"""Bodies and query parameters as typed values; what is wrong with them in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from aiohttp import web

from cutaway.engine.documents import to_json
from cutaway.errors import InvalidArgument
from cutaway.oci.document import Document, decode

D = TypeVar("D", bound=Document)


async def read(request: web.Request, kind: type[D], *, optional: bool = False) -> D:
    """The request's JSON body as a document.

    Raises `InvalidArgument` with the JSON path of the first wrong value. With `optional`, no body at
    all is an empty document.
    """
    raw = await request.read()
    if not raw.strip():
        if optional:
            return decode(kind, {})
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    if request.content_type != "application/json":
        raise InvalidArgument(
            f"unsupported Content-Type header ({request.content_type}): must be 'application/json'"
        )
    try:
        value = json.loads(raw)
    except RecursionError:
        raise InvalidArgument("invalid JSON: nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from None
    return decode(kind, value, "request body")


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A boolean parameter by Docker's rule: "", 0, no, false and none (in any case) are false."""
    value = request.query.get(name)
    if value is None:
        return default
    return value.strip().lower() not in ("", "0", "no", "false", "none")


def integer(request: web.Request, name: str, default: int | None = None) -> int | None:
    """A number parameter. Raises `InvalidArgument`."""
    text = request.query.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"invalid value for {name}: {text!r} is not a number") from None


def filters(request: web.Request) -> dict[str, list[str]]:
    """The `filters` parameter: {"key": ["value"]}, or the older {"key": {"value": true}}."""
    text = request.query.get("filters", "")
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgument(f"invalid filter: {text[:200]!r} is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidArgument("invalid filter: expected an object")
    return {key: _filter_values(key, entry) for key, entry in value.items()}


def _filter_values(key: str, entry: object) -> list[str]:
    if isinstance(entry, dict):
        return [name for name, wanted in entry.items() if wanted]
    if isinstance(entry, list) and all(isinstance(item, str) for item in entry):
        return list(entry)
    raise InvalidArgument(f"invalid filter '{key}': expected an array of strings")


def check_filters(given: Mapping[str, list[str]], known: frozenset[str]) -> None:
    """Raise `InvalidArgument` for a filter that the resource does not have, as Docker does."""
    for key in given:
        if key not in known:
            raise InvalidArgument(f"invalid filter '{key}'")


def json_response(value: object, status: int = 200) -> web.Response:
    """Plain values and documents as JSON, None as null."""
    text = to_json(value) + "\n"
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": "application/json"})


def no_content() -> web.Response:
    return web.Response(status=204)


def not_modified() -> web.Response:
    """304 has no body, not even a length (seams.md, trap 7)."""
    return web.Response(status=304)
