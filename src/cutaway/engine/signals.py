"""Signals by name and number as Docker takes them: TERM, SIGTERM, 15, RTMIN+3."""

from __future__ import annotations

import re
import signal
from typing import Final

from cutaway.errors import InvalidArgument

_LAST: Final = 64  # SIGRTMAX on Linux
_NUMBERS: Final[dict[str, int]] = {
    **{s.name.removeprefix("SIG"): s.value for s in signal.Signals},
    # glibc keeps the first two real-time signals for itself; the kernel's numbering begins at 34 with it.
    "RTMIN": 34,
    "RTMAX": 64,
    "IOT": 6,
    "CLD": 17,
    "POLL": 29,
}
_REALTIME: Final = re.compile(r"RT(MIN\+|MAX-)(\d{1,2})")


def parse(text: str) -> int:
    """A signal's number. Raises `InvalidArgument` in Docker's words."""
    bare = text.strip().upper().removeprefix("SIG")
    number = 0
    if bare.isdecimal() and len(bare) < 4:
        number = int(bare)
    elif bare in _NUMBERS:
        number = _NUMBERS[bare]
    elif found := _REALTIME.fullmatch(bare):
        number = 34 + int(found[2]) if found[1] == "MIN+" else 64 - int(found[2])
    if not 1 <= number <= _LAST:
        raise InvalidArgument(f"Invalid signal: {text}")
    return number
