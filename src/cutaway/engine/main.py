"""`cutawayd`: the engine's program."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from typing import TYPE_CHECKING

from cutaway.errors import CutawayError

if TYPE_CHECKING:
    from cutaway.engine.settings import Settings

_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "fatal": "CRITICAL"}


def main(argv: list[str] | None = None) -> int:
    """Run the daemon in the foreground until it is told to end; returns the exit code."""
    from cutaway import heap
    from cutaway.engine import settings

    try:
        chosen = settings.parse(sys.argv[1:] if argv is None else argv)
        _set_up_logging(chosen.log_level)
        if os.geteuid() != 0:
            print("cutawayd: needs to be started by root", file=sys.stderr)
            return 1
        heap.share()
        return _run(chosen)
    except CutawayError as error:
        print(f"cutawayd: {error}", file=sys.stderr)
        return 1


def _run(chosen: Settings) -> int:
    from cutaway.engine import pidfile
    from cutaway.engine.daemon import Daemon

    os.umask(0o022)
    # The modules just imported live as long as we do: a full collection in a run need not walk them.
    gc.collect()
    gc.freeze()
    with pidfile.claimed(chosen.pidfile):
        asyncio.run(Daemon(chosen).run())
    return 0


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=_LEVELS[level], format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    for library in ("aiohttp", "asyncio", "grpc"):
        logging.getLogger(library).setLevel(logging.WARNING)
