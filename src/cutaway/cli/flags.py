"""Reading flags the way docker's command line does, from tables.

    RM = Flag("rm", help="Remove the container when it ends")
    ENV = Flag("env", "e", "list", "Set an environment variable")
    values, arguments = parse([RM, ENV], ["--rm", "-eA=1", "busybox", "-x"], interspersed=False)
    values.on("rm"), values.texts("env"), arguments    # True, ["A=1"], ["busybox", "-x"]

Long flags take `--flag value` or `--flag=value`, short ones `-f value`, `-fvalue` or `-f=value`, and
boolean short flags combine (`-it`). `--` ends flags; so does the first argument when a command's
own arguments follow it (interspersed=False). The wording of refusals is that of Go's pflag, which
scripts and people know from docker.

A flag's kind names how its value is read (`values.py`) and what help shows for it.
"""

from cutaway.cli.failure import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

REPEATED = ("list", "env", "label", "stream", "mount", "ulimit", "map", "filter", "network")
PLAIN = ("string", "list", "map", "network")  # kept as they were typed


class Flag:
    """One flag of a command."""

    __slots__ = ("default", "help", "kind", "name", "short")

    def __init__(
        self, name: str, short: str = "", kind: str = "bool", help: str = "", default: str = ""
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.help = help
        self.default = default

    @property
    def spelling(self) -> str:
        """How messages name it: `-m, --memory`."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class HelpWanted(Exception):
    """`--help` was among the flags."""


class Values:
    """What was given, by flag name; the getters answer with the flag's default otherwise."""

    def __init__(self, flags: "Sequence[Flag]") -> None:
        self._flags = {flag.name: flag for flag in flags}
        self._given: dict[str, object] = {}

    def given(self, name: str) -> bool:
        return name in self._given

    def store(self, flag: Flag, text: str) -> None:
        """Read and keep one value. Raises `UsageError` for a bad one."""
        value = convert(flag, text)
        if flag.kind in REPEATED:
            kept = self._given.setdefault(flag.name, [])
            assert isinstance(kept, list)
            kept.append(value)
        else:
            self._given[flag.name] = value

    def _value(self, name: str) -> object:
        if name in self._given:
            return self._given[name]
        flag = self._flags.get(name)
        if flag is None or flag.default == "":
            return None
        return convert(flag, flag.default)

    def on(self, name: str) -> bool:
        """A boolean flag."""
        return self._value(name) is True

    def text(self, name: str) -> str:
        value = self._value(name)
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """A flag that may be repeated."""
        value = self._value(name)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def number(self, name: str, otherwise: int = 0) -> int:
        """An integer, a size in bytes, billionths of a CPU, or nanoseconds, by the flag's kind."""
        value = self._value(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else otherwise

    def items(self, name: str) -> list[object]:
        """A repeated flag whose values are more than text."""
        value = self._value(name)
        return list(value) if isinstance(value, list) else []


def convert(flag: Flag, text: str) -> object:
    """The value in `text`. Raises `UsageError` in pflag's words."""
    if flag.kind in PLAIN:
        return text
    from cutaway.cli.values import READERS

    try:
        return READERS[flag.kind](text)
    except ValueError as error:
        raise UsageError(f'invalid argument "{text}" for "{flag.spelling}" flag: {error}') from None


def parse(
    flags: "Sequence[Flag]", argv: "Sequence[str]", *, interspersed: bool = True
) -> tuple[Values, list[str]]:
    """Split `argv` into flags' values and arguments.

    Raises `UsageError` for what is not understood and `HelpWanted` at `--help` (or `-h` where no
    other flag has that letter).
    """
    reader = _Reader(flags, argv)
    arguments: list[str] = []
    while reader.words:
        word = reader.words.pop(0)
        if word == "--":
            return reader.values, arguments + reader.words
        if len(word) < 2 or word[0] != "-":
            arguments.append(word)
            if not interspersed:
                return reader.values, arguments + reader.words
        elif word[1] == "-":
            reader.long(word[2:])
        else:
            reader.short(word[1:])
    return reader.values, arguments


class _Reader:
    """The words still to be read, and what they meant so far."""

    def __init__(self, flags: "Sequence[Flag]", argv: "Sequence[str]") -> None:
        self.values = Values(flags)
        self.words = list(argv)
        self._long = {flag.name: flag for flag in flags}
        self._short = {flag.short: flag for flag in flags if flag.short}

    def long(self, word: str) -> None:
        name, equals, text = word.partition("=")
        if not name or name[0] in "-=":
            raise UsageError(f"bad flag syntax: --{word}")
        flag = self._long.get(name)
        if flag is None:
            if name == "help":
                raise HelpWanted
            raise UsageError(f"unknown flag: --{name}")
        if not equals:
            text = "true" if flag.kind == "bool" else self._next(f"--{name}")
        self.values.store(flag, text)

    def short(self, letters: str) -> None:
        rest = letters
        while rest:
            letter, rest = rest[0], rest[1:]
            flag = self._short.get(letter)
            if flag is None:
                if letter == "h":
                    raise HelpWanted
                raise UsageError(f"unknown shorthand flag: '{letter}' in -{letters}")
            if rest.startswith("="):
                text, rest = rest[1:], ""
            elif flag.kind == "bool":
                text = "true"
            elif rest:
                text, rest = rest, ""
            else:
                text = self._next(f"'{letter}' in -{letters}")
            self.values.store(flag, text)

    def _next(self, what: str) -> str:
        if not self.words:
            raise UsageError(f"flag needs an argument: {what}")
        return self.words.pop(0)
