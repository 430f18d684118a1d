"""Running a shim's binary: `start` and `delete`, by fork where it is our own, by exec otherwise.

Source: containerd's runtime/v2 README ("Shim commands").
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cutaway.containerd import open_files
from cutaway.containerd.tasks import endpoint
from cutaway.containerd.tasks.bundles import Bundle
from cutaway.containerd.tasks.endpoint import Endpoint
from cutaway.containerd.tasks.generations import Generations, message
from cutaway.containerd.tasks.runtimes import is_ours
from cutaway.containerd.zygote import Zygote, ZygoteEnded
from cutaway.errors import Aborted, CutawayError, DeadlineExceeded, Unavailable, Unknown
from cutaway.faults import point
from cutaway.pb.bootstrap_pb2 import BootstrapParams
from cutaway.trace import context, spans

log = logging.getLogger("containerd.shims")

# A shim's start takes milliseconds; one that takes longer than this will not come.
SECONDS = 60.0
MAX_OUTPUT = 1 << 20
DEBUG_LEVEL = -4  # of BootstrapParams


@dataclass(frozen=True)
class Launcher:
    """What every call of a shim's binary has in common."""

    address: str
    ttrpc_address: str
    debug: bool
    zygote: Zygote | None
    generations: Generations = field(default_factory=Generations)

    async def start(self, binary: str, bundle: Bundle, options: bytes) -> Endpoint:
        """Start a shim for a bundle; returns where it listens.

        `options` is the serialized Any of the runtime's options. Raises `Unknown` with what the shim said,
        `DeadlineExceeded`, or `Unavailable` when it cannot be run at all.
        """
        arguments = [*self._arguments(bundle), *(["-debug"] if self.debug else []), "start"]
        with spans.span("shim start", kind=spans.CLIENT, binary=binary, bundle=str(bundle.path)) as span:
            with _files(await self._told(binary, bundle, options)) as (given, output, _):
                point("containerd.shims.before-start")
                code = await self._run([binary, *arguments], bundle.path, (given, output, output))
                said = os.pread(output, MAX_OUTPUT, 0)
            point("containerd.shims.started")
            if code:
                raise Unknown(f"{said.decode(errors='replace').strip()}: {_ending(code)}")
            try:
                found = endpoint.parse(said)
            except Unknown as error:
                raise Unknown(f"{binary} start: {error}") from None
            span.set(address=endpoint.SCHEME + found.path)
            return found

    async def _told(self, binary: str, bundle: Bundle, options: bytes) -> bytes:
        """What the binary is to get on stdin."""
        if not await self.generations.takes_bootstrap(binary):
            return options
        told = BootstrapParams(
            instance_id=bundle.id,
            namespace=bundle.namespace,
            log_level=DEBUG_LEVEL if self.debug else 0,
            containerd_grpc_address=self.address,
            containerd_ttrpc_address=self.ttrpc_address,
            containerd_binary=os.path.abspath(sys.argv[0]),
        )
        return message(told, options)

    async def delete(self, binary: str, bundle: Bundle) -> bytes:
        """Let the shim's binary clean up; returns its serialized DeleteResponse.

        A command that dies with the zygote may have run or not; this one may be repeated, and is. Raises as
        `start`, and `Aborted` when it was killed at it.
        """
        try:
            return await self._delete(binary, bundle)
        except ZygoteEnded as error:
            log.info("%s/%s: delete, once more: %s", bundle.namespace, bundle.id, error)
        try:
            return await self._delete(binary, bundle)
        except ZygoteEnded as error:
            raise Aborted(f"{binary} delete: {error}") from None

    async def _delete(self, binary: str, bundle: Bundle) -> bytes:
        arguments = [*self._arguments(bundle), "-bundle", str(bundle.path), "delete"]
        with (
            spans.span("shim delete", kind=spans.CLIENT, binary=binary, bundle=str(bundle.path)),
            _files(b"") as (given, output, complaints),
        ):
            cwd = bundle.path if bundle.path.is_dir() else Path("/")
            point("containerd.shims.before-delete")
            code = await self._run([binary, *arguments], cwd, (given, output, complaints))
            point("containerd.shims.deleted")
            said = _text(complaints)
            if code:
                kind = Unknown if code > 0 else Aborted
                raise kind(f"{binary} delete: {said}: {_ending(code)}")
            if said:
                log.debug("%s/%s: delete: %s", bundle.namespace, bundle.id, said)
            return os.pread(output, MAX_OUTPUT, 0)

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

    async def _run(self, argv: list[str], cwd: Path, streams: tuple[int, int, int]) -> int:
        """Run to the end and return the exit code, below zero for a signal."""
        try:
            async with asyncio.timeout(SECONDS):
                forked = await self._fork(argv, cwd, streams)
                return await self._execute(argv, cwd, streams) if forked is None else forked
        except TimeoutError:
            raise DeadlineExceeded(f"{argv[0]} {argv[-1]} did not end within {SECONDS:g} s") from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Unavailable(f"fork/exec {argv[0]}: {why}") from None

    async def _fork(self, argv: list[str], cwd: Path, streams: tuple[int, int, int]) -> int | None:
        """None when it is to be executed instead."""
        if self.zygote is None or not is_ours(argv[0]):
            return None
        return await self.zygote.run(argv, self._environment(), str(cwd), streams)

    async def _execute(self, argv: list[str], cwd: Path, streams: tuple[int, int, int]) -> int:
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=cwd, env=self._environment(), stdin=streams[0], stdout=streams[1], stderr=streams[2]
        )
        open_files.give_back(process.pid)
        try:
            return await process.wait()
        except BaseException:
            process.kill()
            raise


@contextmanager
def _files(given: bytes) -> Iterator[tuple[int, int, int]]:
    """Standard input, output and error of a command.

    Files in memory, not pipes: a shim's daemon that keeps its output open must not block us.
    """
    descriptors = [os.memfd_create(f"shim-{name}", os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
    stdin, stdout, stderr = descriptors
    try:
        os.write(stdin, given)
        os.lseek(stdin, 0, os.SEEK_SET)
        yield stdin, stdout, stderr
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _text(descriptor: int) -> str:
    return os.pread(descriptor, MAX_OUTPUT, 0).decode(errors="replace").strip()


def _ending(code: int) -> str:
    """How a command ended, in containerd's words."""
    return f"exit status {code}" if code > 0 else f"signal: {-code}"


def failed_start(error: CutawayError) -> Unknown:
    """containerd has one code for all the ways in which a shim does not start."""
    return Unknown(f"failed to start shim: start failed: {error}")
