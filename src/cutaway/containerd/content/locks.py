"""Who writes which ref: one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from cutaway.errors import Unavailable

# containerd tries ten times over about this long before it gives up.
WAIT_SECONDS = 0.5


class RefLocks:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[datetime, float, asyncio.Event]] = {}
        """Since when, by both clocks, and what happens at the end."""

    @asynccontextmanager
    async def hold(self, namespace: str, ref: str) -> AsyncIterator[None]:
        """Raises `Unavailable` while somebody else writes."""
        key = (namespace, ref)
        deadline = time.monotonic() + WAIT_SECONDS
        while held := self._held.get(key):
            began, since, released = held
            try:
                await asyncio.wait_for(released.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise Unavailable(
                    f"ref {ref} locked for {time.monotonic() - since:.3f}s "
                    f"(since {began.isoformat(sep=' ')}): unavailable"
                ) from None
        released = asyncio.Event()
        self._held[key] = (datetime.now().astimezone(), time.monotonic(), released)
        try:
            yield
        finally:
            del self._held[key]
            released.set()

    def is_held(self, namespace: str, ref: str) -> bool:
        return (namespace, ref) in self._held
