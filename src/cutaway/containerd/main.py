"""`cutaway-containerd`: the program.

Order matters: the zygote is forked before gRPC is imported, because a fork of a process that has gRPC's
threads is not safe, and what the zygote does not need should not be in its memory.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from cutaway import heap
from cutaway.containerd import config as settings
from cutaway.containerd import open_files, publish
from cutaway.containerd.locks import RootLock, clear_socket
from cutaway.errors import CutawayError, PermissionDenied
from cutaway.trace import otlp, spans

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

    from cutaway.containerd.app import App
    from cutaway.containerd.config import Config
    from cutaway.containerd.zygote import Zygote

log = logging.getLogger("containerd")

# How long running calls may take to end once the daemon is told to.
GRACE_SECONDS = 5.0


def main(argv: list[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT, or the command `publish`; returns the exit code."""
    try:
        if publish.asked_for(words := sys.argv[1:] if argv is None else argv):
            return publish.main(words)
        config = settings.load(argv)
        heap.share()
        start_logging(config)
        with ExitStack() as held:
            prepare(config, held)
            serve(config, held)
    except CutawayError as error:
        print(f"cutaway-containerd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cutaway-containerd: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0


def start_logging(config: Config) -> None:
    logging.basicConfig(
        level=settings.LOG_LEVELS[config.log_level],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def prepare(config: Config, held: ExitStack) -> None:
    """Make directories and take what only one daemon may have. Raises classes of `cutaway.errors`."""
    try:
        # 0711: shims and runtimes of other users reach what is theirs below it, and list nothing.
        for directory in (config.root, config.state):
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        for address in (config.address, config.ttrpc_address):
            os.makedirs(os.path.dirname(address), exist_ok=True, mode=0o711)
        prepare_opt(config)
    except OSError as error:
        raise PermissionDenied(f"{error.filename} cannot be made: {error.strerror}") from None
    lock = RootLock(config.root)
    held.callback(lock.release)
    clear_socket(config.address)
    clear_socket(config.ttrpc_address)
    if config.debug_address:
        os.makedirs(os.path.dirname(config.debug_address), exist_ok=True, mode=0o711)
        clear_socket(config.debug_address)


def prepare_opt(config: Config) -> None:
    """Let shims and runtimes find what clients install from images."""
    for folder, variable in (("bin", "PATH"), ("lib", "LD_LIBRARY_PATH")):
        path = config.opt / folder
        path.mkdir(parents=True, exist_ok=True, mode=0o711)
        # An empty place in a list would be the current directory.
        os.environ[variable] = ":".join(filter(None, (str(path), os.environ.get(variable, ""))))


def serve(config: Config, held: ExitStack) -> None:
    zygote = start_zygote(held) if config.zygote else None
    open_files.raise_limit()
    endpoint = os.environ.get(otlp.ENDPOINT, "")
    sink = otlp.Background(endpoint) if endpoint else None
    spans.configure("cutaway-containerd", sink)

    import asyncio

    from cutaway.containerd.app import App

    app = App(config, zygote)
    asyncio.run(run(app))
    if sink:
        sink.flush()


def start_zygote(held: ExitStack) -> Zygote:
    """The process that forks shims; it ends with the daemon."""
    from cutaway.containerd import zygote

    return held.enter_context(closing(zygote.start()))


async def run(app: App) -> None:
    """Serve until a signal ends it."""
    import asyncio
    import signal

    from cutaway.containerd import server as grpc_server
    from cutaway.containerd import stacks

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    stacks.dump_on_signal(loop)
    debugging = await start_debugging(app.config.debug_address)
    await app.start()
    server = grpc_server.start(app.services(), app.config.address)
    try:
        await server.start()
        log.info("serving on %s", app.config.address)
        await ended.wait()
        log.info("stopping")
        # What has no end of its own (subscriptions, streams) is ended; the rest gets its time.
        app.bus.close()
        app.streams.close()
        await server.stop(GRACE_SECONDS)
    finally:
        if debugging:
            await debugging.cleanup()
        await app.stop()


async def start_debugging(address: str) -> AppRunner | None:
    """The debug socket, if one is asked for; its HTTP server is not loaded otherwise."""
    if not address:
        return None
    from cutaway.containerd import debug

    return await debug.serve(address)


if __name__ == "__main__":
    sys.exit(main())
