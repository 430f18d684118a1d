"""Command lines as runc takes them, from tables of options.

An option is written `--name value`, `--name=value` or with one dash; a flag may be `--flag=false`. Options
may stand after arguments, except where everything after the first is another command's (`exec`).
argparse would do, and costs 5 ms of the 12 that a cold start has.
"""

from cutaway.errors import InvalidArgument

FLAG, TEXT, NUMBER, MANY, NUMBERS = "flag", "text", "number", "many", "numbers"

TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


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

    __slots__ = ("_values", "arguments")

    def __init__(self) -> None:
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
            parsed.arguments += words[index:]
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
    values = parsed._values
    if option.kind == FLAG:
        if value not in TRUE and value not in FALSE:
            raise UsageError(f'invalid boolean value "{value}" for -{written}: parse error')
        values[name] = value in TRUE
    elif option.kind in (NUMBER, NUMBERS):
        try:
            number = int(value, 0)
        except ValueError:
            raise UsageError(f'invalid value "{value}" for flag -{written}: parse error') from None
        values[name] = number if option.kind == NUMBER else [*parsed.numbers(name), number]
    elif option.kind == MANY:
        values[name] = [*parsed.many(name), value]
    else:
        values[name] = value
