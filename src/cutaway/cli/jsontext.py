"""JSON without the price of `import json`.

The standard package imports `re` (and with it `enum`, `functools`, ...): 8 ms, more than half of what
the CLI may spend. The C accelerator that does the work behind it needs none of them, so the common
path talks to that; where it is absent (another Python implementation), and for the wording of syntax
errors, the standard package is used.
"""

from cutaway.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Settings:
    """What the C scanner reads off the decoder that made it."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: "dict[str, str]" = {}


def _reader() -> "Callable[[str], Any]":
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads
    scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_Settings())  # type: ignore[arg-type]

    def read(text: str) -> "Any":
        start = len(text) - len(text.lstrip(" \t\r\n"))
        try:
            value, end = scan(text, start)
        except StopIteration:
            raise ValueError("no JSON value") from None
        if text[end:].strip(" \t\r\n"):
            raise ValueError(f"something follows the JSON value at character {end}")
        return value

    return read


_read = _reader()


def loads(text: bytes | str, what: str = "the daemon's answer") -> "Any":
    """Parse JSON text; `what` names it in errors. Raises `Unknown`: only a broken peer sends such."""
    try:
        return _read(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise Unknown(f"{what} is not JSON: {error}") from None


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
_SEPARATORS = {"\u2028": "\\u2028", "\u2029": "\\u2029"}


def quote(text: str, html: bool = False) -> str:
    """A JSON string as Go's encoder writes it; `html` also escapes < > & (Go's default)."""
    if text.isalnum():
        return f'"{text}"'
    out = []
    for char in text:
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char < " " or "\ud800" <= char <= "\udfff":
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append((_HTML.get(char) if html else None) or _SEPARATORS.get(char, char))
    return f'"{"".join(out)}"'


def dumps(value: object, *, html: bool = False) -> str:
    """Compact JSON, keys in the order they have."""
    return _write(value, html, "", "")


def pretty(value: object, *, html: bool = False, indent: str = "    ") -> str:
    """JSON as `docker inspect` prints it: four spaces, empty containers on one line."""
    return _write(value, html, indent, "\n")


def _write(value: object, html: bool, indent: str, newline: str) -> str:
    if isinstance(value, str):
        return quote(value, html)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    inner = newline + indent if newline else ""
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        items = [
            f"{inner}{quote(str(k), html)}{colon}{_write(v, html, indent, inner)}" for k, v in value.items()
        ]
        return f"{{{','.join(items)}{newline}}}" if items else "{}"
    if isinstance(value, list | tuple):
        items = [inner + _write(item, html, indent, inner) for item in value]
        return f"[{','.join(items)}{newline}]" if items else "[]"
    raise TypeError(f"{type(value).__name__} has no JSON form")
