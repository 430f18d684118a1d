"""Reading flag values that are more than text: numbers, sizes, durations, limits.

Every reader takes the text and returns a value or raises ValueError with the part of the message
that follows `invalid argument "x" for "--flag" flag: `.
"""

from cutaway.cli.mounts import mount_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_DURATIONS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def integer(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    value = int(text)
    if not -(1 << 63) <= value < (1 << 63):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def size(text: str) -> int:
    """Bytes from `64m`, `1.5GiB`, `1024`: units are powers of 1024, letters of either case."""
    number, unit = _split_number(text.strip())
    unit = unit.strip().lower()
    if unit.endswith("b"):
        unit = unit[:-1]
    if unit.endswith("i"):
        unit = unit[:-1]
    if unit not in _UNITS or not number:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(number) * 1024 ** _UNITS[unit])


def _split_number(text: str) -> tuple[str, str]:
    end = 0
    while end < len(text) and (text[end].isdecimal() or (text[end] == "." and end > 0)):
        end += 1
    number = text[:end]
    if number.count(".") > 1 or number.endswith(".") or not number.isascii():
        return "", text
    return number, text[end:]


def swap(text: str) -> int:
    """A size, or -1 for no limit."""
    return -1 if text == "-1" else size(text)


def cpus(text: str) -> int:
    """Billionths of a CPU from a decimal or a fraction."""
    from fractions import Fraction

    try:
        value = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if value.denominator != 1:
        raise ValueError("value is too precise")
    return int(value)


def duration(text: str) -> int:
    """Nanoseconds from Go's notation: `1h30m`, `500ms`."""
    rest, total = text.lstrip("+-"), 0.0
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    while rest:
        number, rest = _split_number(rest)
        unit = ""
        while rest and not (rest[0].isdecimal() or rest[0] == "."):
            unit, rest = unit + rest[0], rest[1:]
        if not number:
            raise ValueError(f'time: invalid duration "{text}"')
        if unit not in _DURATIONS:
            problem = f"unknown unit {unit!r}".replace("'", '"') if unit else "missing unit"
            raise ValueError(f'time: {problem} in duration "{text}"')
        total += float(number) * _DURATIONS[unit]
    return int(-total if text.startswith("-") else total)


ULIMITS = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
]


def ulimit(text: str) -> dict[str, object]:
    """`name=soft[:hard]` as the API's Ulimit."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft, colon, hard = limits.partition(":")
    first = integer(soft)
    second = integer(hard) if colon else first
    if second != -1 and (first > second or first == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {first} > {second}")
    return {"Name": name, "Hard": second, "Soft": first}


def attach_stream(text: str) -> str:
    """One of stdin, stdout, stderr, in small letters."""
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def variable(text: str) -> str:
    """An environment variable, with a value or without."""
    if not text or text.startswith("="):
        raise ValueError(f"invalid environment variable: {text}")
    return text


def label(text: str) -> str:
    """A label, with a value or without."""
    if not text or text.startswith("="):
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def name_and_value(text: str) -> str:
    """A filter."""
    if "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    return text


READERS: "dict[str, Callable[[str], object]]" = {
    "bool": boolean,
    "int": integer,
    "bytes": size,
    "swap": swap,
    "decimal": cpus,
    "duration": duration,
    "filter": name_and_value,
    "env": variable,
    "label": label,
    "mount": mount_of,
    "ulimit": ulimit,
    "stream": attach_stream,
}
