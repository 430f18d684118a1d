"""Points in time as the Engine API takes them: seconds since the epoch with nanoseconds."""

import time

from cutaway.errors import InvalidArgument

_FORMS = (
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M%z",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d%z",
    "%Y-%m-%d",
)


def moment(text: str) -> str:
    """`1700000000.5`, `10m` (that long ago) or an RFC 3339 time. Raises `InvalidArgument` for others."""
    from cutaway.cli.values import duration

    whole, _, fraction = text.partition(".")
    if whole.isdecimal() and (not fraction or fraction.isdecimal()):
        return f"{whole}.{fraction.ljust(9, '0')[:9]}" if fraction else whole
    try:
        return str((time.time_ns() - duration(text)) // 10**9)  # whole seconds, as docker sends them
    except ValueError:
        then = _calendar(text)
    return f"{then // 10**9}.{then % 10**9:09d}"


def _calendar(text: str) -> int:
    """Nanoseconds since the epoch; local time where no zone is given."""
    from datetime import datetime

    stamp, digits = _without_fraction(text)
    for form in _FORMS:
        try:
            parsed = datetime.strptime(stamp, form)
        except ValueError:
            continue
        return int(parsed.astimezone().timestamp()) * 10**9 + int(digits.ljust(9, "0")[:9])
    raise InvalidArgument(f'failed to parse value as time or duration: "{text}"')


def _without_fraction(text: str) -> tuple[str, str]:
    """Part `12:00:00.25Z` into `12:00:00+0000` and `25`."""
    head, dot, tail = text.partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))] if dot else ""
    stamp = head + tail[len(digits) :] if dot else text
    return (f"{stamp[:-1]}+0000" if stamp.endswith("Z") else stamp), digits or "0"
