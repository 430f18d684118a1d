"""Command lines as runc takes them, from tables of options.

An option is written `--name value`, `--name=value` or with one dash; a flag may be `--flag=false`. Options
may stand after arguments, except where everything after the first is another command's (`exec`).
argparse would do, and costs 5 ms of the 12 that a cold start has.
"""

from cutaway.errors import InvalidArgument

FLAG, TEXT, NUMBER, MANY = "flag", "text", "number", "many"
NUMBERS, DURATION = "numbers", "duration"

TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}


class Option:
    """One option: its names (the long one first), what it takes, and its help line."""

    __slots__ = ("help", "kind", "names")

    def __init__(self, names: str, kind: str, help: str) -> None:
        self.names = tuple(names.split())
        self.kind = kind
        self.help = help


class UsageError(InvalidArgument):
    """A command line that cannot be understood; the usage text goes with it."""


class Parsed:
    """Options and arguments of one command. A getter's name is its type."""

    __slots__ = ("_values", "_written", "arguments")

    def __init__(self) -> None:
        self._written: dict[str, str] = {}  # which of its names an option was given by
        self._values: dict[str, bool | str | int | list[str] | list[int]] = {}
        self.arguments: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        return bool(self._values.get(name, False))

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name, default)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: int = 0) -> int:
        value = self._values.get(name, default)
        return value if isinstance(value, int) else default

    def many(self, name: str) -> list[str]:
        value = self._values.get(name)
        return [str(each) for each in value] if isinstance(value, list) else []

    def numbers(self, name: str) -> list[int]:
        value = self._values.get(name)
        return [int(each) for each in value] if isinstance(value, list) else []


def parse(options: list[Option], words: list[str], *, stop_at_argument: bool = False) -> Parsed:
    """Take options and arguments apart. Raises `UsageError`, in the words of runc's library."""
    table = {name: option for option in options for name in option.names}
    parsed = Parsed()
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            parsed.arguments += words[index - bool(parsed.arguments) :]  # after an argument it is one too
            break
        if not word.startswith("-") or word == "-":
            parsed.arguments.append(word)
            if stop_at_argument:
                parsed.arguments += words[index:]
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        option = table.get(name)
        if option is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        if option.kind == FLAG:
            _set(parsed, option, name, value if equals else "true")
            continue
        if not equals:
            if index == len(words):
                raise UsageError(f"flag needs an argument: -{name}")
            value = words[index]
            index += 1
        _set(parsed, option, name, value)
    return parsed


def _set(parsed: Parsed, option: Option, written: str, value: str) -> None:
    name = option.names[0]
    if parsed._written.setdefault(name, written) != written:
        raise UsageError(f"Cannot use two forms of the same flag: {' '.join(reversed(option.names))}")
    values = parsed._values
    if option.kind == FLAG:
        if value not in TRUE and value not in FALSE:
            raise UsageError(f'invalid boolean value "{value}" for -{written}: parse error')
        values[name] = value in TRUE
    elif option.kind == NUMBER:
        values[name] = _number(written, value)
    elif option.kind == NUMBERS:
        values[name] = [*parsed.numbers(name), _number(written, value)]
    elif option.kind == DURATION:
        values[name] = _duration(written, value)
    elif option.kind == MANY:
        values[name] = [*parsed.many(name), value]
    else:
        values[name] = value


def _number(written: str, value: str) -> int:
    try:
        return int(value, 0)
    except ValueError:
        raise UsageError(f'invalid value "{value}" for flag -{written}: parse error') from None


def _duration(written: str, value: str) -> int:
    """Milliseconds, rounded, of a duration in Go's form: `1.5s`, `2m30s`, `-1h`, `0`."""
    rest = value.removeprefix("-") if value.startswith("-") else value.removeprefix("+")
    total = 0.0
    if rest != "0":
        if not rest:
            raise UsageError(f'invalid value "{value}" for flag -{written}: parse error')
        while rest:
            digits = len(rest) - len(rest.lstrip("0123456789."))
            letters = len(rest) - digits - len(rest[digits:].lstrip("nuµmsh"))
            number, unit = rest[:digits], rest[digits : digits + letters]
            if unit not in _MILLISECONDS or not number.replace(".", "", 1).isdecimal():
                raise UsageError(f'invalid value "{value}" for flag -{written}: parse error')
            total += float(number) * _MILLISECONDS[unit]
            rest = rest[digits + letters :]
    return round(-total if value.startswith("-") else total)
