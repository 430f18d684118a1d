"""Sizes and ages as people read them, in docker's words."""

import time

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def human_size(size: float, digits: int = 3) -> str:
    """`1.98MB`: powers of 1000, so many significant digits."""
    return _scaled(size, 1000, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """`23.54GiB`: powers of 1024."""
    return _scaled(size, 1024, _BINARY, 4)


def _scaled(size: float, base: int, names: tuple[str, ...], digits: int) -> str:
    index = 0
    while size >= base and index < len(names) - 1:
        size /= base
        index += 1
    return f"{size:.{digits}g}{names[index]}"


def human_duration(seconds: float) -> str:
    """`5 minutes`, `About an hour`, `2 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    for limit, divisor, name in (
        (48, 1, "hours"),
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < limit:
            return "About an hour" if hours == 1 else f"{hours // divisor} {name}"
    return f"{hours // (24 * 365)} years"


def ago(epoch: int) -> str:
    """How long a moment (seconds since the epoch) lies back; `N/A` for none."""
    if epoch <= 0:
        return "N/A"
    return f"{human_duration(time.time() - epoch)} ago"


def local_time(epoch: int) -> str:
    """`2026-11-24 09:07:51 +0000 UTC`, in the zone of this machine."""
    if epoch <= 0:
        return "N/A"
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(epoch))


def rfc3339(epoch: int) -> str:
    """`2026-11-24T09:07:51Z`, in the zone of this machine."""
    zone = time.strftime("%z", time.localtime(epoch))
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(epoch)) + zone


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last of them an ellipsis if some are missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def short_id(identity: str) -> str:
    """Twelve digits of an ID, without its algorithm."""
    return identity.removeprefix("sha256:")[:12]
