"""Running a shim's binary: `start` and `delete`, by fork where it is our own, by exec otherwise.

Source: containerd's runtime/v2 README ("Shim commands"). A shim is found by its runtime's name:
io.containerd.runc.v2 is containerd-shim-runc-v2 on PATH, an absolute path is itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cutaway.containerd.tasks.bundles import Bundle
from cutaway.containerd.zygote import Zygote
from cutaway.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable, Unknown
from cutaway.trace import context, spans

log = logging.getLogger("containerd.shims")

OUR_SHIM = "containerd-shim-cutaway-v1"

# What containerd allows; a shim's start takes milliseconds.
SECONDS = 60.0
MAX_OUTPUT = 1 << 20


def binary_name(runtime: str) -> str:
    """The shim of a runtime's name. Raises `InvalidArgument` for one that names no shim."""
    parts = runtime.split(".")
    if len(parts) < 3 or not all(parts) or "/" in runtime:
        raise InvalidArgument(
            f'invalid runtime name "{runtime}", correct format is io.containerd.NAME.VERSION'
        )
    return f"containerd-shim-{parts[-2]}-{parts[-1]}"


def resolve(runtime: str) -> str:
    """The absolute path of a runtime's shim. Raises `NotFound` or `InvalidArgument`."""
    if os.path.isabs(runtime):
        if not os.access(runtime, os.X_OK):
            raise NotFound(f"invalid custom binary path {runtime}: no such executable")
        return runtime
    name = binary_name(runtime)
    path = shutil.which(name) or shutil.which(name, path=own_directory())
    if path is None:
        raise NotFound(
            f'failed to resolve runtime path: runtime "{runtime}" binary not installed "{name}": '
            "file does not exist"
        )
    return path


def own_directory() -> str:
    """Where our programs are installed."""
    return os.path.dirname(os.path.abspath(sys.argv[0]))


@dataclass(frozen=True)
class Launcher:
    """What every call of a shim's binary has in common."""

    address: str
    ttrpc_address: str
    debug: bool
    zygote: Zygote | None

    async def start(self, binary: str, bundle: Bundle, options: bytes) -> str:
        """Start a shim for a bundle; returns the path of its socket.

        `options` is the serialized Any of the runtime's options. Raises `Unknown` with what the shim said.
        """
        arguments = [*self._arguments(bundle), *(["-debug"] if self.debug else []), "start"]
        with spans.span("shim start", kind=spans.CLIENT, binary=binary, bundle=str(bundle.path)) as span:
            code, output = await self._run(binary, arguments, bundle.path, options)
            if code:
                raise Unknown(f"{output.decode(errors='replace').strip()}: exit status {code}")
            address = output.decode(errors="replace").strip()
            if not address.startswith("unix://") or "\n" in address:
                raise Unknown(f"shim {binary} did not print its address but {address[:200]!r}")
            span.set(address=address)
            return address.removeprefix("unix://")

    async def delete(self, binary: str, bundle: Bundle) -> bytes:
        """Let the shim's binary clean up; returns its serialized DeleteResponse. Raises `Unknown`."""
        arguments = [*self._arguments(bundle), "-bundle", str(bundle.path), "delete"]
        cwd = bundle.path if bundle.path.is_dir() else Path("/")
        with spans.span("shim delete", kind=spans.CLIENT, binary=binary):
            code, output = await self._run(binary, arguments, cwd, b"", separate=True)
        if code:
            raise Unknown(f"{binary} delete: exit status {code}")
        return output

    def _arguments(self, bundle: Bundle) -> list[str]:
        return [
            "-namespace", bundle.namespace,
            "-address", self.address,
            "-publish-binary", os.path.abspath(sys.argv[0]),
            "-id", bundle.id,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "TTRPC_ADDRESS": self.ttrpc_address, "GOMAXPROCS": "2"}
        if current := spans.current():
            environment[context.ENVIRONMENT] = current.traceparent
        return environment

    async def _run(
        self, binary: str, arguments: list[str], cwd: Path, stdin: bytes, *, separate: bool = False
    ) -> tuple[int, bytes]:
        """Run to the end; returns exit code and output. Standard error is part of it unless `separate`.

        Files in memory, not pipes: a shim's daemon that keeps its output open must not block us.
        """
        streams = [os.memfd_create(f"shim-{name}", os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        given, output, complaints = streams
        try:
            os.write(given, stdin)
            os.lseek(given, 0, os.SEEK_SET)
            argv = [binary, *arguments]
            async with asyncio.timeout(SECONDS):
                code = await self._execute(argv, cwd, (given, output, complaints if separate else output))
            if separate and (said := os.pread(complaints, MAX_OUTPUT, 0)):
                log.warning("%s delete: %s", binary, said.decode(errors="replace").strip())
            return code, os.pread(output, MAX_OUTPUT, 0)
        except TimeoutError:
            raise DeadlineExceeded(f"{binary} {arguments[-1]} did not end within {SECONDS:g} s") from None
        except OSError as error:
            raise Unavailable(f"{binary} cannot be executed: {error.strerror}") from None
        finally:
            for descriptor in streams:
                os.close(descriptor)

    async def _execute(self, argv: list[str], cwd: Path, streams: tuple[int, int, int]) -> int:
        zygote = self.zygote
        if zygote is not None and zygote.usable and is_ours(argv[0]):
            return await zygote.run(argv, self._environment(), str(cwd), streams)
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=cwd, env=self._environment(), stdin=streams[0], stdout=streams[1], stderr=streams[2]
        )
        return await process.wait()


def is_ours(binary: str) -> bool:
    """Whether a path leads to the shim that is installed beside us, under whatever name."""
    return os.path.realpath(binary) == os.path.realpath(os.path.join(own_directory(), OUR_SHIM))
