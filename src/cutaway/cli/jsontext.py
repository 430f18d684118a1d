"""JSON as the CLI reads and writes it: Go's escapes and docker's indentation, without `import json`."""

from cutaway.errors import Unknown
from cutaway.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def loads(text: bytes | str, what: str = "the daemon's answer") -> "Any":
    """Parse JSON text; `what` names it in errors. Raises `Unknown`: only a broken peer sends such."""
    try:
        return jsontext.loads(text)
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
