"""The functions a template may call: text/template's own and docker's, and how values print."""

from cutaway.cli import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def show(value: object) -> str:
    """A value as Go prints it: `true`, `[a b]`, `map[key:value]`."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{' '.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{show(value[key])}' for key in sorted(value))}]"
    return str(value)


def to_json(value: object) -> str:
    from cutaway.cli.table import Row

    return jsontext.dumps(value.as_json(), html=True) if isinstance(value, Row) else jsontext.dumps(value)


def join(items: object, separator: object) -> str:
    if not isinstance(items, list):
        raise ValueError(":1: error calling join: expected a list")
    return str(separator).join(show(item) for item in items)


def length(value: object) -> int:
    if isinstance(value, str | list | dict):
        return len(value)
    raise ValueError(":1: error calling len: nil pointer")


def index(value: object, *keys: object) -> object:
    """The element under each key in turn; a missing key of a map gives nothing."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise ValueError(f":1: error calling index: reflect: slice index out of range ({key})")
            value = value[key]
        else:
            raise ValueError(f":1: error calling index: can't index {show(value)}")
    return value


def equal(first: object, *others: object) -> bool:
    return any(first == other for other in others)


def both(*values: object) -> object:
    for value in values:
        if not value:
            return value
    return values[-1]


def either(*values: object) -> object:
    for value in values:
        if value:
            return value
    return values[-1]


def printf(form: object, *values: object) -> str:
    """%s %v %d %q %t %f with flags and widths; an unknown verb is shown as it stands."""
    out, rest, left = [], str(form), list(values)
    while rest:
        text, percent, rest = rest.partition("%")
        out.append(text)
        if not percent:
            break
        if rest.startswith("%"):
            out.append("%")
            rest = rest[1:]
            continue
        end = len(rest) - len(rest.lstrip("0123456789.+-# "))
        width, verb, rest = rest[:end], rest[end : end + 1], rest[end + 1 :]
        value = left.pop(0) if left else "%!(MISSING)"
        if verb in "dxXof" and isinstance(value, int | float):
            out.append(f"%{width}{verb}" % value)
        else:
            shown = jsontext.quote(show(value)) if verb == "q" else show(value)
            out.append(f"%{width}s" % shown)
    return "".join(out)


def ordered(test: "Callable[[int], bool]") -> "Callable[[object, object], bool]":
    """A comparison of two numbers or two texts."""

    def compare(first: object, second: object) -> bool:
        if isinstance(first, int | float) and isinstance(second, int | float):
            return test((first > second) - (first < second))
        if isinstance(first, str) and isinstance(second, str):
            return test((first > second) - (first < second))
        raise ValueError(":1: incompatible types for comparison")

    return compare


def truncate(value: object, size: object) -> str:
    return str(value)[: size if isinstance(size, int) else 0]


def pad(value: object, before: object, after: object) -> str:
    first, second = (count if isinstance(count, int) else 0 for count in (before, after))
    return f"{' ' * first}{value}{' ' * second}" if value else ""


FUNCTIONS: "dict[str, Callable[..., object]]" = {
    "json": to_json,
    "join": join,
    "split": lambda text, separator: str(text).split(str(separator)),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "title": lambda text: str(text).title(),
    "truncate": truncate,
    "pad": pad,
    "len": length,
    "index": index,
    "print": lambda *values: " ".join(show(value) for value in values),
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "printf": printf,
    "eq": equal,
    "ne": lambda first, second: first != second,
    "lt": ordered(lambda sign: sign < 0),
    "le": ordered(lambda sign: sign <= 0),
    "gt": ordered(lambda sign: sign > 0),
    "ge": ordered(lambda sign: sign >= 0),
    "and": both,
    "or": either,
    "not": lambda value: not value,
}
