"""A containerd of our own, as dockerd starts one when none is named: a child that ends with us, and is
started again should it die. Containers do not notice either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Final

from cutaway.engine.programs import find_program
from cutaway.engine.settings import Settings
from cutaway.errors import FailedPrecondition, Unavailable
from cutaway.trace import otlp

log = logging.getLogger(__name__)

_PROGRAM: Final = "cutaway-containerd"
_READY_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 10.0
_RESTART_PAUSE: Final = 0.5


class ManagedContainerd:
    """The child and its keeper."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.exec_root / "containerd-daemon"
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return str(self._folder / "containerd.sock")

    async def start(self) -> None:
        """Start it and wait until it listens. Raises `FailedPrecondition`, `Unavailable`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        Path(self.address).unlink(missing_ok=True)
        self._process = await self._spawn()
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while not await _listens(self.address):
            if self._process.returncode is not None:
                raise Unavailable(
                    f"{_PROGRAM} ended with exit code {self._process.returncode}; see its log above"
                )
            if asyncio.get_running_loop().time() > deadline:
                await self.stop()
                raise Unavailable(f"{_PROGRAM} does not listen on {self.address} after {_READY_SECONDS:g} s")
            await asyncio.sleep(0.01)
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _spawn(self) -> asyncio.subprocess.Process:
        program = find_program(_PROGRAM)
        if program is None:
            raise FailedPrecondition(
                f"{_PROGRAM} is neither beside cutawayd nor on PATH; "
                "name a running containerd by --containerd SOCKET"
            )
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        environment.setdefault(otlp.ENDPOINT, f"unix://{self._settings.collector_socket}")
        return await asyncio.create_subprocess_exec(
            program,
            *("--root", str(self._settings.data_root / "containerd")),
            *("--state", str(self._folder / "state")),
            *("--address", self.address),
            *("--log-level", self._settings.log_level),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _keep(self) -> None:
        while self._process is not None:
            code = await self._process.wait()
            log.error(
                "containerd (pid %d) ended with exit code %s; starting it again", self._process.pid, code
            )
            await asyncio.sleep(_RESTART_PAUSE)
            self._process = await self._spawn()

    async def stop(self) -> None:
        """End it; the shims, and the containers with them, stay."""
        if self._keeper is not None:
            self._keeper.cancel()
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listens(address: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(address)
    except OSError:
        return False
    writer.close()
    return True
