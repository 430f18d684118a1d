"""The versions of the programs that we do not speak to ourselves."""

from __future__ import annotations

import asyncio
import re
from typing import Final

_CACHE: Final[dict[str, tuple[str, str]]] = {}
_SECONDS: Final = 5.0


async def runtime_version(binary: str) -> tuple[str, str]:
    """Version and commit that an OCI runtime prints for --version; empty when it cannot be asked.

    Asked once: a runtime that is replaced under a running daemon is a rare thing to show wrongly.
    """
    if not binary:
        return "", ""
    if binary not in _CACHE:
        _CACHE[binary] = parse(await _ask(binary))
    return _CACHE[binary]


async def _ask(binary: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            binary, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return ""
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        process.kill()
        return ""
    return output.decode(errors="replace")


def parse(output: str) -> tuple[str, str]:
    """The last word of the `version` line and what follows `commit:`, as dockerd reads them."""
    version = re.search(r"^\S+ version (?:.* )?(\S+)$", output, re.MULTILINE)
    commit = re.search(r"^commit:\s*(\S+)", output, re.MULTILINE)
    return version[1] if version else "", commit[1] if commit else ""
