"""What happens around every request: version, errors, headers, trace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from aiohttp import web

from cutaway.engine.api import errors, version
from cutaway.errors import CutawayError
from cutaway.trace import context, spans

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A client that goes away ends these; all others are carried through (seams.md, trap 5).
_STREAMING: Final = "cutaway_streaming"
# Requests that make a trace of their own when the client brings none.
_TRACED: Final = "cutaway_traced"


def streaming(handler: Handler) -> Handler:
    """Mark a handler as one that lives as long as its client stays: it is cancelled when that goes."""
    setattr(handler, _STREAMING, True)
    return handler


def traced(handler: Handler) -> Handler:
    """Mark a handler as worth a trace, whether the client asks for one or not."""
    setattr(handler, _TRACED, True)
    return handler


@web.middleware
async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run a request's handler; whatever it raises becomes an answer in Docker's form."""
    marks = request.match_info.handler
    try:
        version.check(request)
        if getattr(marks, _STREAMING, False):
            return await _recorded(request, handler, marks)
        return await _carried_through(request, _recorded(request, handler, marks))
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 (the last line before the client)
        return _answer(request, error)


async def _carried_through(
    request: web.Request, work: Coroutine[Any, Any, web.StreamResponse]
) -> web.StreamResponse:
    """Do it to its end: a client that hangs up must not leave half of what it asked for."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            _abandoned.add(task)
            task.add_done_callback(lambda done: _tell_abandoned(request, done))
        raise


_abandoned: Final[set[asyncio.Future[web.StreamResponse]]] = set()
"""Requests whose clients have gone, kept from the garbage collector until they are done."""


def _tell_abandoned(request: web.Request, task: asyncio.Future[web.StreamResponse]) -> None:
    _abandoned.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.info("%s %s, whose client has gone: %s", request.method, request.path, error)


async def _recorded(request: web.Request, handler: Handler, marks: object) -> web.StreamResponse:
    parent = context.parse(request.headers.get(context.HEADER))
    if parent is None and not getattr(marks, _TRACED, False):
        return await handler(request)
    path = request.match_info.route.resource
    name = path.canonical if path is not None else request.path
    with spans.span(
        f"{request.method} {name.removeprefix('/v{version}')}",
        parent=parent,
        kind=spans.SERVER,
        **{
            "http.request.method": request.method,
            "url.path": request.path,
            "url.query": request.query_string,
        },
    ) as span:
        try:
            response = await handler(request)
        except CutawayError as error:
            span.set(**{"http.response.status_code": errors.status_of(error)})
            raise
        span.set(**{"http.response.status_code": response.status})
        return response


def _answer(request: web.Request, error: Exception) -> web.StreamResponse:
    if not isinstance(error, CutawayError | web.HTTPException):
        log.error("%s %s: unexpected failure", request.method, request.path, exc_info=error)
    else:
        log.debug("%s %s: %s", request.method, request.path, error)
    return errors.from_exception(error)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Docker's headers on every answer (an on_response_prepare signal)."""
    response.headers.update(version.HEADERS)
