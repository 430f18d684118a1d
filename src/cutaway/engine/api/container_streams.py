"""A container's streams: attach (a hijacked connection), logs and stats (chunked answers)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from aiohttp import web

from cutaway.engine import timestamps
from cutaway.engine.api import body, version
from cutaway.engine.api.containers import container_of
from cutaway.engine.api.hijack import MULTIPLEXED, RAW, Connection, Hijacked, hijack
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.middleware import streaming
from cutaway.engine.api.stats import stats_view
from cutaway.engine.containers.model import Container, Status
from cutaway.engine.logs import reader
from cutaway.engine.stdio import detach
from cutaway.engine.stdio.fifo import Writer
from cutaway.engine.stdio.framing import STDERR, STDOUT, frame
from cutaway.engine.stdio.pump import InputEnd, pump_stdin
from cutaway.errors import FailedPrecondition, InvalidArgument, Unimplemented

_STATS_SECONDS = 1.0


def routes() -> list[web.RouteDef]:
    one = "/containers/{id}"
    return [
        web.post(f"{one}/attach", attach),
        web.get(f"{one}/logs", logs),
        web.get(f"{one}/stats", stats),
    ]


@streaming
async def attach(request: web.Request) -> web.StreamResponse:
    """Output from now on (and, with logs=1, from before), input until the client's end of it."""
    container = container_of(request)
    if container.state.status is Status.PAUSED:
        raise FailedPrecondition(f"container {container.name} is paused, unpause the container before attach")
    if container.state.status is Status.RESTARTING:
        raise FailedPrecondition(
            f"container {container.name} is restarting, wait until the container is running"
        )
    keys = detach.parse(request.query.get("detachKeys", ""))
    tty = container.config.tty
    connection = hijack(request, framed=not tty, multiplexed_type=version.of(request) >= (1, 42))
    connection.wants(_streams(request))
    events = daemon_of(request).events
    events.container(container, "attach")
    if body.flag(request, "logs"):
        await _replay(container, connection)
    if not body.flag(request, "stream"):
        connection.finish()
        return Hijacked(connection)
    container.hub.attach(connection)
    stdin = container.stdin if body.flag(request, "stdin") else None
    try:
        close = _stdin_closer(request, container) if container.config.stdin_once and not tty else None
        scanner = detach.DetachScanner(keys) if tty else None
        if await serve(connection, stdin, scanner, close):
            events.container(container, "detach")
    finally:
        container.hub.detach(connection)
    return Hijacked(connection)


def _streams(request: web.Request) -> frozenset[int]:
    wanted = {STDOUT: "stdout", STDERR: "stderr"}
    return frozenset(stream for stream, name in wanted.items() if body.flag(request, name))


def _stdin_closer(request: web.Request, container: Container) -> Callable[[], object]:
    parts = daemon_of(request).parts

    async def end_input() -> None:
        async with container.lock:  # a start that is under way sees to it itself
            await parts.end_input(container)

    def close() -> None:
        if container.stdin is not None:
            container.stdin.end_wanted = True
            parts.background(end_input(), f"closing stdin of {container.short_id}")

    return close


async def _replay(container: Container, connection: Connection) -> None:
    if container.log is not None:
        wanted = reader.Selection(frozenset({STDOUT, STDERR}))
        async for entry in reader.read(container.log, wanted, None):
            connection.deliver(entry.stream, entry.data)


async def serve(
    connection: Connection,
    stdin: Writer | None,
    scanner: detach.DetachScanner | None,
    close_stdin: Callable[[], object] | None,
) -> bool:
    """Serve a client until its output is done or it has gone; True if it detached by its keys.

    The end of its input closes the process's (`close_stdin`), or, where that must stay open for others,
    ends the attach: that is how Docker detaches a client without StdinOnce.
    """
    if stdin is None:
        await connection.output_done.wait()
        return False
    pumping = asyncio.ensure_future(pump_stdin(connection.read, stdin, scanner))
    done = asyncio.ensure_future(connection.output_done.wait())
    try:
        await asyncio.wait([pumping, done], return_when=asyncio.FIRST_COMPLETED)
        ended = pumping.result() if pumping.done() else None
        if ended is InputEnd.EOF and close_stdin is not None:
            close_stdin()
        elif ended in (InputEnd.EOF, InputEnd.DETACHED):
            connection.finish()
        await connection.output_done.wait()
        return ended is InputEnd.DETACHED
    finally:
        pumping.cancel()
        done.cancel()
        if close_stdin is not None and not pumping.done():
            close_stdin()  # the client was cut off: its input has ended too


@streaming
async def logs(request: web.Request) -> web.StreamResponse:
    """What was logged, framed like an attach unless there is a terminal."""
    streams = _streams(request)
    if not streams:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    container = container_of(request)
    if container.log is None:
        raise Unimplemented("configured logging driver does not support reading")
    wanted = _selection(request, streams)
    follow = _follower(container) if body.flag(request, "follow") else None
    stamped, tty = body.flag(request, "timestamps"), container.config.tty
    response = web.StreamResponse()
    response.content_type = RAW if tty or version.of(request) < (1, 42) else MULTIPLEXED
    response.enable_chunked_encoding()
    await response.prepare(request)
    async with contextlib.aclosing(reader.read(container.log, wanted, follow)) as entries:
        async for entry in entries:
            data = entry.data
            if stamped:
                data = timestamps.fixed_rfc3339(entry.time_ns).encode() + b" " + data
            await response.write(data if tty else frame(entry.stream, data))
    await response.write_eof()
    return response


def _follower(container: Container) -> Callable[[], bool]:
    """Whether there may be more: as long as it runs, or is restarted."""
    return lambda: container.state.is_active


def _selection(request: web.Request, streams: frozenset[int]) -> reader.Selection:
    tail = request.query.get("tail", "all")
    return reader.Selection(
        streams=streams,
        tail=int(tail) if tail.isdecimal() else None,
        since_ns=timestamps.parse(request.query.get("since", ""), "since"),
        until_ns=timestamps.parse(request.query.get("until", ""), "until"),
    )


@streaming
async def stats(request: web.Request) -> web.StreamResponse:
    """What the container uses, once or every second."""
    container = container_of(request)
    stream, one_shot = body.flag(request, "stream", True), body.flag(request, "one-shot")
    before: dict[str, object] | None = None
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        now = await stats_view(daemon_of(request), container, before)
        if stream or one_shot or before is not None or not container.state.is_running:
            await response.write(json.dumps(now).encode() + b"\n")
        if not container.state.is_running or one_shot or (not stream and before is not None):
            break
        before = now
        await asyncio.sleep(_STATS_SECONDS)
    await response.write_eof()
    return response
