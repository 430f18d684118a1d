"""The built-in registry, for machines that Docker Hub cannot be reached from.

The engine starts `cutaway-registry` as a child at the first need, on a Unix socket; it speaks the same
protocol as any other registry, so the pull goes on as before. The child lives as long as its standard
input is open, which ends with us, however we end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Final

from cutaway import errors
from cutaway.engine.images.model import EmbeddedSettings
from cutaway.engine.programs import find_program
from cutaway.registry.client.settings import Endpoint, unix_endpoint
from cutaway.registry.reference import DEFAULT_DOMAIN, Reference
from cutaway.trace.otlp import ENDPOINT

PROGRAM: Final = "cutaway-registry"
START_SECONDS: Final = 15.0
HELD: Final = frozenset(("library/hello-world",))

log = logging.getLogger(__name__)


class EmbeddedRegistry:
    """Starts the built-in registry when it is first asked for, and again should it have died."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    def covers(self, reference: Reference) -> bool:
        """Whether it may hold this image: it stands in for Docker Hub, and only for what it came with."""
        return reference.domain == DEFAULT_DOMAIN and reference.path in HELD

    async def endpoint(self) -> Endpoint:
        """Where it listens; started if need be. Raises `Unavailable` if it does not start."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._process = await self._start()
        return unix_endpoint(DEFAULT_DOMAIN, os.fspath(self._settings.socket))

    async def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        self._settings.socket.parent.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            _program(),
            "--listen", f"unix://{self._settings.socket}",
            "--root", os.fspath(self._settings.root),
            "--with-hello",
            "--read-only",
            "--until-stdin-closes",
            env=self._environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            # Its first line says that it listens; it has no more to say there.
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            await _kill(process)
            raise errors.Unavailable(f"the built-in registry did not start in {START_SECONDS:g} s") from None
        except BaseException:
            await _kill(process)
            raise
        if not line:
            raise errors.Unavailable(f"the built-in registry ended at once: exit {await process.wait()}")
        log.info("built-in registry: %s", line.decode(errors="replace").strip())
        return process

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self._settings.otlp_endpoint:
            environment.setdefault(ENDPOINT, self._settings.otlp_endpoint)
        return environment


async def _kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


def _program() -> str:
    """The registry's program. Raises `Unavailable`."""
    if found := find_program(PROGRAM):
        return found
    raise errors.Unavailable(f"{PROGRAM} is neither beside {sys.argv[0]} nor on PATH")
