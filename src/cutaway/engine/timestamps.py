"""Points in time as they cross the seams; inside, all are nanoseconds since the epoch, 0 for never."""

from __future__ import annotations

import re
import time
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cutaway.errors import InvalidArgument

# Go's zero time: what Docker prints for a container that has never been started.
NEVER: Final = "0001-01-01T00:00:00Z"
_SECOND: Final = 1_000_000_000

_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d\d:\d\d)?"
)
_SECONDS: Final = re.compile(r"(\d{1,11})(?:\.(\d{1,9})\d*)?")


def now_ns() -> int:
    return time.time_ns()


def rfc3339(ns: int) -> str:
    """RFC 3339 in UTC with as many decimals as are needed (Go's RFC3339Nano); `NEVER` for 0."""
    if ns <= 0:
        return NEVER
    seconds, rest = divmod(ns, _SECOND)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def fixed_rfc3339(ns: int) -> str:
    """RFC 3339 with all nine decimals, as `docker logs --timestamps` prints it."""
    seconds, rest = divmod(ns, _SECOND)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def parse(text: str, what: str) -> int:
    """A time as the API takes it: seconds since the epoch with decimals, or RFC 3339; "" and "0" are 0.

    Raises `InvalidArgument` that names `what`.
    """
    if text in ("", "0"):
        return 0
    if found := _SECONDS.fullmatch(text):
        return int(found[1]) * _SECOND + int((found[2] or "").ljust(9, "0"))
    if found := _RFC3339.fullmatch(text):
        return _from_parts(found, text, what)
    raise InvalidArgument(f"invalid value for {what!r}: {text[:64]!r} is neither seconds nor RFC 3339")


def _from_parts(found: re.Match[str], text: str, what: str) -> int:
    import calendar

    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        raise InvalidArgument(f"invalid value for {what!r}: {text!r} is no date")
    zone = found[8] or "Z"
    offset = 0
    if zone != "Z":
        offset = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60 * (-1 if zone[0] == "-" else 1)
    seconds = calendar.timegm((year, month, day, hour, minute, second)) - offset
    return seconds * _SECOND + int((found[7] or "").ljust(9, "0"))


def from_protobuf(stamp: Timestamp) -> int:
    """Nanoseconds of a protobuf time; unset ones travel as Go's zero time, seconds -62135596800."""
    return max(0, stamp.seconds * _SECOND + stamp.nanos)


def human_duration(seconds: float) -> str:
    """A span of time as Docker words it in `Up 5 minutes` (the thresholds of docker/go-units)."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    for limit, unit, size in ((48, "hours", 1), (24 * 14, "days", 24), (24 * 60, "weeks", 168)):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{hours // 720} months" if hours < 24 * 365 * 2 else f"{int(seconds / 3600 / 24 / 365)} years"
