"""The debug socket (`[debug] address` of a config file): what `ctr pprof` and people with curl ask for.

    /debug/vars                 the command line, memory and counts, as JSON
    /debug/pprof/goroutine      stacks of all threads and tasks
    /debug/pprof/cmdline        the command line, its words parted by zero bytes

Other profiles of containerd's are made by Go's runtime; they are 404 here, in words.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
from typing import Final

from aiohttp import web

from cutaway.containerd import stacks
from cutaway.errors import FailedPrecondition

PROFILES: Final = ("allocs", "block", "heap", "mutex", "profile", "symbol", "threadcreate", "trace")


async def serve(address: str) -> web.AppRunner:
    """Serve on a Unix socket that only root and its group may open; the caller cleans the runner up.

    Raises `FailedPrecondition` when the socket cannot be made.
    """
    app = web.Application()
    app.router.add_get("/debug/vars", _vars)
    app.router.add_get("/debug/pprof/goroutine", _stacks)
    app.router.add_get("/debug/pprof/cmdline", _command_line)
    app.router.add_get("/debug/pprof/{name:.*}", _refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    before = os.umask(0o117)
    try:
        await web.UnixSite(runner, address).start()
    except OSError as error:
        await runner.cleanup()
        raise FailedPrecondition(f"cannot listen on {address}: {error.strerror}") from None
    finally:
        os.umask(before)
    return runner


async def _vars(_request: web.Request) -> web.Response:
    return web.json_response(
        {
            "cmdline": sys.argv,
            "memory": {"max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10},
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        }
    )


async def _stacks(_request: web.Request) -> web.Response:
    return web.Response(text=stacks.dump(asyncio.get_running_loop()))


async def _command_line(_request: web.Request) -> web.Response:
    return web.Response(text="\0".join(sys.argv))


async def _refuse(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    why = "is made by Go's runtime, which is not here" if name in PROFILES else "is not known"
    return web.Response(status=404, text=f"profile {name!r} {why}; there are goroutine and cmdline\n")
