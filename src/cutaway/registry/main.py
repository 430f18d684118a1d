"""cutaway-registry: an OCI distribution server for this machine alone.

It listens on loopback or on a Unix socket and on nothing else: it has no login and no TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cutaway import errors
from cutaway.trace import otlp, spans

DEFAULT_LISTEN: Final = "127.0.0.1:5000"
DEFAULT_ROOT: Final = "/var/lib/cutaway/registry"
GRACE_SECONDS: Final = 5.0  # for answers under way when it ends


@dataclass(frozen=True)
class Address:
    """Where to listen: a Unix socket's path, or a loopback host and a port (0: any free one)."""

    path: str = ""
    host: str = ""
    port: int = 0


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, `tcp://HOST:PORT` or `unix://PATH`; refuse what others could reach."""
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/") or len(os.fsencode(path)) > 107:
            raise errors.InvalidArgument(f"--listen {text}: expected an absolute path of at most 107 bytes")
        return Address(path=path)
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise errors.InvalidArgument(f"--listen {text}: expected HOST:PORT or unix:///PATH")
    host = host.strip("[]")
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise errors.InvalidArgument(
            f"--listen {text}: only loopback or a Unix socket: this registry has no login and no TLS"
        )
    return Address(host="127.0.0.1" if host == "localhost" else host, port=int(port))


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; exit 1 with one line on standard error for anything that prevents it."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    _send_traces()
    try:
        asyncio.run(_serve(arguments))
    except errors.CutawayError as error:
        print(f"cutaway-registry: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cutaway-registry: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cutaway-registry", description="A registry for this machine.")
    add = parser.add_argument
    add("--listen", default=DEFAULT_LISTEN, metavar="ADDRESS", help="127.0.0.1:PORT or unix:///PATH")
    add("--root", default=DEFAULT_ROOT, metavar="DIR", help="folder of blobs and manifests")
    add("--with-hello", action="store_true", help="hold library/hello-world")
    add("--read-only", action="store_true", help="refuse pushes and deletes")
    add("--until-stdin-closes", action="store_true", help="end when standard input does, as a child should")
    return parser


def _send_traces() -> None:
    if endpoint := os.environ.get(otlp.ENDPOINT):
        spans.configure("cutaway-registry", otlp.Background(endpoint))


async def _serve(arguments: argparse.Namespace) -> None:
    from aiohttp import web

    from cutaway.registry.server.app import add_hello, make_app
    from cutaway.registry.server.storage import Storage

    address = parse_address(arguments.listen)
    storage = Storage(Path(arguments.root))
    if arguments.with_hello:
        add_hello(storage)
    ended = asyncio.Event()
    _end_on_signals(ended)
    if arguments.until_stdin_closes:
        _end_with_stdin(ended)
    runner = web.AppRunner(make_app(storage, read_only=arguments.read_only), access_log=None)
    await runner.setup()
    try:
        listener = _listen(address)
        site = web.SockSite(runner, listener)
        await site.start()
        print(f"listening on {_shown(address, listener)}", flush=True)
        await ended.wait()
    finally:
        await asyncio.wait_for(runner.cleanup(), GRACE_SECONDS)
        if address.path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address.path)


def _listen(address: Address) -> socket.socket:
    if not address.path:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family)
    _remove_dead_socket(address.path)
    os.makedirs(os.path.dirname(address.path), exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)  # nobody but us may connect, from the first moment on
    try:
        listener.bind(address.path)
    finally:
        os.umask(old)
    listener.listen()
    return listener


def _remove_dead_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more; refuse to take one that is in use."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise errors.AlreadyExists(f"--listen unix://{path}: there is something else than a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise errors.AlreadyExists(f"--listen unix://{path}: another process listens there")


def _shown(address: Address, listener: socket.socket) -> str:
    if address.path:
        return f"unix://{address.path}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{listener.getsockname()[1]}"


def _end_on_signals(ended: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)


def _end_with_stdin(ended: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended.set()

    try:
        loop.add_reader(0, readable)
    except OSError:  # epoll takes no regular files, and /dev/null is like one
        raise errors.InvalidArgument("--until-stdin-closes: standard input is no pipe") from None


if __name__ == "__main__":
    sys.exit(main())
