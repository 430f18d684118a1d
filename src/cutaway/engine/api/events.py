"""/events: what has happened since a time, and what happens, as JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from cutaway.engine import timestamps
from cutaway.engine.api import body
from cutaway.engine.api.container_filters import label_matches
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.middleware import streaming
from cutaway.engine.documents import to_json
from cutaway.engine.events import Event
from cutaway.errors import InvalidArgument

_KNOWN: Final = frozenset(
    [
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ]
)
_OBJECTS: Final = ("container", "image", "network", "volume", "plugin", "daemon")


def routes() -> list[web.RouteDef]:
    return [web.get("/events", events)]


@streaming
async def events(request: web.Request) -> web.StreamResponse:
    given = body.filters(request)
    body.check_filters(given, _KNOWN)
    since = timestamps.parse(request.query.get("since", ""), "since")
    until = timestamps.parse(request.query.get("until", ""), "until")
    if until and since > until:
        raise InvalidArgument(
            f"`since` time ({request.query['since']}) cannot be after `until` time ({request.query['until']})"
        )
    bus = daemon_of(request).events
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    with bus.listen() as queue:
        for event in bus.history() if since or until else []:
            if event.time_ns >= since and not (until and event.time_ns > until):
                await _send(response, event, given)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_seconds_until(until)):
                while True:
                    await _send(response, await queue.get(), given)
    await response.write_eof()
    return response


def _seconds_until(until_ns: int) -> float | None:
    return max(0.0, until_ns / 1e9 - time.time()) if until_ns else None


async def _send(response: web.StreamResponse, event: Event, given: Mapping[str, list[str]]) -> None:
    if matches(event, given):
        await response.write((to_json(event.document()) + "\n").encode())


def matches(event: Event, given: Mapping[str, list[str]]) -> bool:
    """Whether an event passes every filter; of the values of one filter, one is enough (labels: all)."""
    for key, values in given.items():
        if key == "type":
            passes = event.type in values
        elif key == "event":
            passes = any(event.action == value or event.action.startswith(f"{value}:") for value in values)
        elif key == "scope":
            passes = "local" in values
        elif key == "label":
            passes = all(label_matches(event.attributes, value) for value in values)
        elif key in _OBJECTS:
            passes = event.type == key and any(_names(event, value) for value in values)
        else:
            passes = False
        if not passes:
            return False
    return True


def _names(event: Event, value: str) -> bool:
    return event.id.startswith(value) or event.attributes.get("name") in (value, value.removeprefix("/"))
