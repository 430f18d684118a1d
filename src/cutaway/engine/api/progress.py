"""A long piece of work as a stream of JSON objects, one a line: pull, load, push, import."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.engine.images.progress import Event, Progress

log = logging.getLogger(__name__)

POLL: Final = 1.0  # seconds between two looks at whether the client is still there

Work = Callable[[Progress], Awaitable[None]]


async def streamed(request: web.Request, work: Work, *, always_well: bool = False) -> web.StreamResponse:
    """Do it, and send each step that it reports; it is cancelled when the client goes.

    A failure ends the stream as an object of its own. Before the first step it becomes a status instead,
    unless the status is to be 200 in any case: `always_well`. Nothing is answered before the first step
    either way: some clients take the head for the end of the work.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    task = asyncio.create_task(_told(work, events))
    try:
        return await _send(request, events, task, always_well)
    finally:
        task.cancel()  # does nothing to one that is done
        await asyncio.wait((task,))
        if not task.cancelled() and isinstance(error := task.exception(), ConnectionError):
            log.debug("%s %s: %s", request.method, request.path, error)


async def _told(work: Work, events: asyncio.Queue[Event | None]) -> None:
    try:
        await work(events.put_nowait)
    finally:
        events.put_nowait(None)  # the end


async def _send(
    request: web.Request, events: asyncio.Queue[Event | None], task: asyncio.Task[None], always_well: bool
) -> web.StreamResponse:
    response: web.StreamResponse | None = None
    while (event := await _next(request, events)) is not None:
        response = response or await _open(request)
        await response.write(_line(event))
    try:
        await task
    except errors.CutawayError as error:
        if response is None and not always_well:
            raise
        response = response or await _open(request)
        await response.write(_line({"errorDetail": {"message": str(error)}, "error": str(error)}))
    response = response or await _open(request)
    await response.write_eof()
    return response


async def _next(request: web.Request, events: asyncio.Queue[Event | None]) -> Event | None:
    """The next step, or None after the last; raises once the client has gone, even in a long silence."""
    while True:
        try:
            return await asyncio.wait_for(events.get(), POLL)
        except TimeoutError:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has gone") from None


async def _open(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\r\n"
