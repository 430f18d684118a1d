"""The command line as containerd writes it: Go's flags, one dash or two, `-x v` or `-x=v`."""

from cutaway.errors import InvalidArgument

_VALUES = ("namespace", "id", "address", "publish-binary", "bundle", "socket", "debug-socket")
_SWITCHES = ("debug", "v", "version", "info")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Arguments:
    """What the container service asked for. `action` is "" when none was given."""

    __slots__ = ("action", "switches", "values")

    def __init__(self, action: str, values: dict[str, str], switches: set[str]) -> None:
        self.action = action
        self.values = values
        self.switches = switches

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    @property
    def debug(self) -> bool:
        return "debug" in self.switches


def parse(argv: list[str]) -> Arguments:
    """Flags end at the first word that is none; that is the action. Raises `InvalidArgument`."""
    values: dict[str, str] = {}
    switches: set[str] = set()
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in _SWITCHES:
            if _truth(name, value if equals else "true"):
                switches.add(name)
        elif name in _VALUES:
            if not equals and not words:
                raise InvalidArgument(f"flag needs an argument: -{name}")
            values[name] = value if equals else words.pop(0)
        else:
            raise InvalidArgument(f"flag provided but not defined: -{name}")
    return Arguments(words[0] if words else "", values, switches)


def _truth(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise InvalidArgument(f'invalid boolean value "{value}" for -{name}')
