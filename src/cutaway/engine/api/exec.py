"""/exec: a further process in a container; start hijacks the connection unless it detaches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from cutaway.engine.api import body, container_views, version
from cutaway.engine.api.container_streams import serve
from cutaway.engine.api.containers import container_of, terminal_size
from cutaway.engine.api.hijack import Connection, Hijacked, hijack
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.api.middleware import streaming
from cutaway.engine.containers.exec_request import ExecRequest, ExecStart
from cutaway.engine.containers.execs import Exec
from cutaway.engine.stdio import detach
from cutaway.engine.stdio.framing import STDERR, STDOUT
from cutaway.errors import CutawayError


def routes() -> list[web.RouteDef]:
    return [
        web.post("/containers/{id}/exec", create),
        web.post("/exec/{exec_id}/start", start),
        web.post("/exec/{exec_id}/resize", resize),
        web.get("/exec/{exec_id}/json", inspect),
    ]


def _exec_of(request: web.Request) -> Exec:
    return daemon_of(request).containers.execs.get(request.match_info["exec_id"])


async def create(request: web.Request) -> web.Response:
    wanted = await body.read(request, ExecRequest)
    detach.parse(wanted.detach_keys)
    made = daemon_of(request).containers.execs.create(container_of(request), wanted)
    return body.json_response({"Id": made.id}, status=201)


async def inspect(request: web.Request) -> web.Response:
    return body.json_response(container_views.exec_view(_exec_of(request)))


async def resize(request: web.Request) -> web.Response:
    width, height = terminal_size(request)
    await daemon_of(request).containers.execs.resize(_exec_of(request), width, height)
    return web.Response()


@streaming
async def start(request: web.Request) -> web.StreamResponse:
    """Refusals that can be told beforehand have a status; a failure after the 101 is text on the stream."""
    options = await body.read(request, ExecStart)
    execs, exec_ = daemon_of(request).containers.execs, _exec_of(request)
    execs.check_startable(exec_)
    if options.console_size and not exec_.request.console_size:
        exec_.request.console_size = options.console_size
    if options.detach:
        await asyncio.shield(asyncio.ensure_future(execs.start(exec_)))
        return web.Response()
    tty = exec_.request.tty
    connection = hijack(request, framed=not tty, multiplexed_type=version.of(request) >= (1, 42))
    wanted = exec_.request
    connection.wants(
        frozenset(
            {s for s, asked in ((STDOUT, wanted.attach_stdout), (STDERR, wanted.attach_stderr)) if asked}
        )
    )
    exec_.hub.attach(connection)
    try:
        await _run(request, exec_, connection)
    finally:
        exec_.hub.detach(connection)
    return Hijacked(connection)


async def _run(request: web.Request, exec_: Exec, connection: Connection) -> None:
    daemon = daemon_of(request)
    try:
        # Shielded: a client that leaves now finds the process running or not, nothing in between.
        await asyncio.shield(asyncio.ensure_future(daemon.containers.execs.start(exec_)))
    except CutawayError as error:
        connection.write_text(f"{error.message}\r\n")
        connection.finish()
        await connection.output_done.wait()
        return
    scanner = detach.DetachScanner(detach.parse(exec_.request.detach_keys)) if exec_.request.tty else None
    await serve(connection, exec_.stdin, scanner, _stdin_closer(request, exec_))


def _stdin_closer(request: web.Request, exec_: Exec) -> Callable[[], object]:
    daemon = daemon_of(request)

    async def close() -> None:
        if exec_.stdin is not None and exec_.running:
            exec_.stdin.close()
            await daemon.runtime.close_stdin(exec_.container.id, exec_.id)

    return lambda: daemon.parts.background(close(), f"closing stdin of exec {exec_.id[:12]}")
