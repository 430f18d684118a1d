"""Where handlers find the engine's parts in the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from cutaway.engine.daemon import Daemon

DAEMON: Final = web.AppKey["Daemon"]("daemon")


def daemon_of(request: web.Request) -> Daemon:
    """The daemon that serves a request."""
    return request.app[DAEMON]
