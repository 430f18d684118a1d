"""Which start protocol a shim's binary takes, found out by asking for its version, once for each binary.

    before containerd 2.3    the options as an Any on stdin; a shim told otherwise takes the one for the other
    since 2.3                BootstrapParams on stdin, with the options in it

The two cannot be told apart by a shim that gets the wrong one, so it is asked first: `-v` prints the
version of the containerd that it was built from. One that does not say gets the older protocol.
Source: containerd's pkg/shim (Command, run).
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.any_pb2 import Any

from cutaway import __version__
from cutaway.containerd.tasks.runtimes import is_ours
from cutaway.pb.bootstrap_pb2 import BootstrapParams, Extension

SECONDS: Final = 5.0
MAX_OUTPUT: Final = 4096
BOOTSTRAP_SINCE: Final = (2, 3)

_VERSION = re.compile(rb"^\s*Version:\s*v?(\d+)\.(\d+)", re.MULTILINE)

Stamp = tuple[str, int, int, int]
"""A path, and what changes when another file is put there."""


@dataclass
class Generations:
    """What is known of shims' binaries."""

    _known: dict[Stamp, bool] = field(default_factory=dict)

    async def takes_bootstrap(self, binary: str) -> bool:
        """Whether a binary is of containerd 2.3 or newer."""
        if is_ours(binary):
            return False  # it takes both, and is not executed for this
        try:
            found = os.stat(binary)
        except OSError:
            return False
        stamp = (binary, found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp not in self._known:
            self._known[stamp] = await _version(binary) >= BOOTSTRAP_SINCE
        return self._known[stamp]


async def _version(binary: str) -> tuple[int, int]:
    """The version that a binary names, or (0, 0)."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(binary, "-v", stdin=null, stdout=pipe, stderr=null)
    except OSError:
        return 0, 0
    assert process.stdout
    try:
        async with asyncio.timeout(SECONDS):
            said = await process.stdout.read(MAX_OUTPUT)
    except TimeoutError:
        said = b""
    finally:
        if process.returncode is None:
            # It has said what there is to say, or will not.
            process.kill()
        await process.wait()
    found = _VERSION.search(said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def message(told: BootstrapParams, options: bytes) -> bytes:
    """What a shim of 2.3 gets on stdin: `told`, with the serialized Any of the runtime's options."""
    if options:
        told.extensions.append(Extension(value=Any.FromString(options)))
    told.containerd_version = __version__
    return told.SerializeToString()
