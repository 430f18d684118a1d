"""`docker top`: the host's ps, and of what it prints the container's processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from cutaway.errors import InvalidArgument, Unavailable, Unknown


async def process_table(arguments: str, pids: Iterable[int]) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of `ps ARGUMENTS` for some processes.

    Raises `InvalidArgument` when ps does not print a PID column, `Unknown` with its own words when it fails.
    """
    words = arguments.split()
    if any(word.partition("=")[0] in ("--ppid", "-o") and "=" in word for word in words):
        raise InvalidArgument(f'specifying "{arguments}" is not allowed')
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unavailable(
            'ps: executable file not found in $PATH; it comes with the package "procps"'
        ) from None
    output, problem = await process.communicate()
    if process.returncode != 0:
        raise Unknown(f"ps: {problem.decode(errors='replace').strip()[:300]}")
    return select(output.decode(errors="replace"), frozenset(pids))


def select(output: str, pids: frozenset[int]) -> tuple[list[str], list[list[str]]]:
    """Titles and the rows whose PID is one of the given; the last column takes the rest of the line."""
    head, *lines = output.splitlines() or [""]
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    place = titles.index("PID")
    rows = [line.split(None, len(titles) - 1) for line in lines]
    chosen = (row for row in rows if len(row) > place and row[place].isdecimal())
    return titles, [row for row in chosen if int(row[place]) in pids]
