"""When a request is worth another attempt, and how long to wait before it.

A reset connection and a 5xx answer are, with pauses that grow and are spread by chance, so that many
clients do not come back at the same moment. `Retry-After` is honoured with 429 and 503 as far as somebody
who watches a pull would wait; beyond that, and with a 429 that does not say how long, the registry's own
words are told at once: Docker Hub's limits last for hours. Source: RFC 9110, section 10.2.3.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

TOO_MANY: Final = 429
UNAVAILABLE: Final = 503
NOT_IMPLEMENTED: Final = 501
SPREAD: Final = 0.5  # of a pause, either way


@dataclass
class Pauses:
    """The pauses of one request, in seconds; each is given once."""

    delays: tuple[float, ...]
    longest: float
    """The longest `Retry-After` that is waited for."""
    taken: int = field(default=0, init=False)

    def after_break(self) -> float | None:
        """The pause after a broken connection, or None when there have been enough."""
        return self._next()

    def after_answer(self, status: int, headers: Mapping[str, str]) -> float | None:
        """The pause after an answer, or None when it is to be taken as it is."""
        if status != TOO_MANY and (status < 500 or status == NOT_IMPLEMENTED):
            return None
        asked = retry_after(headers.get("Retry-After", "")) if status in (TOO_MANY, UNAVAILABLE) else None
        if (asked is None and status == TOO_MANY) or (asked or 0) > self.longest:
            return None
        own = self._next()
        return None if own is None else max(own, asked or 0)

    def _next(self) -> float | None:
        if self.taken >= len(self.delays):
            return None
        self.taken += 1
        return pause(self.delays, self.taken)


def pause(delays: tuple[float, ...], attempt: int) -> float:
    """The pause before the attempt of this number, the first being 0, which has none."""
    if not delays or not attempt:
        return 0
    return delays[min(attempt, len(delays)) - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)


def retry_after(value: str) -> float | None:
    """Seconds to wait by a `Retry-After` header, a number or a date; None for anything else."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:10])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
