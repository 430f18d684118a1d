"""Threads for what blocks: hashing, files, tar streams. The event loop only waits for them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Not to use processors, of which there may be two, but so that a few long unpacks leave room for the rest.
THREADS = 16


class Workers:
    """A small pool. Work carries the caller's trace context along."""

    def __init__(self, threads: int = THREADS, name: str = "worker") -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a thread and wait for it.

        A caller that is cancelled stops waiting; the function runs to its end.
        """
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: context.run(function, *args, **kwargs))

    async def finish(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but a caller that is cancelled waits for the end too.

        For work on something that the caller is going to close, such as a file.
        """
        future = asyncio.ensure_future(self.run(function, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=False)
