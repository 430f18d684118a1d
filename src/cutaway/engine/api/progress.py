"""A long piece of work as a stream of JSON objects, one a line: pull, load, push, import."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.engine.images.progress import Event, Progress

POLL: Final = 1.0  # seconds between two looks at whether the client is still there

Work = Callable[[Progress], Awaitable[None]]


async def streamed(request: web.Request, work: Work, *, at_once: bool = False) -> web.StreamResponse:
    """Do it, and send each step that it reports; it is cancelled when the client goes.

    A failure ends the stream as an object of its own. Before the first step it becomes a status instead,
    unless the answer is to begin `at_once`.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    task = asyncio.create_task(_told(work, events))
    try:
        return await _send(request, events, task, at_once)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _told(work: Work, events: asyncio.Queue[Event | None]) -> None:
    try:
        await work(events.put_nowait)
    finally:
        events.put_nowait(None)  # the end


async def _send(
    request: web.Request, events: asyncio.Queue[Event | None], task: asyncio.Task[None], at_once: bool
) -> web.StreamResponse:
    response = await _open(request) if at_once else None
    while (event := await _next(request, events)) is not None:
        response = response or await _open(request)
        await response.write(_line(event))
    try:
        await task
    except errors.CutawayError as error:
        if response is None:
            raise
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
