"""JSON text without the json package: its C parts alone.

`import json` costs about 5 ms, nearly all of it for `re`, which only the pure-Python scanner needs. The cold
runtime and the CLI cannot spare that. Where the C accelerator is missing, json itself does the work.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring as _quote
    from _json import make_encoder as _make_encoder
    from _json import make_scanner as _make_scanner

    _accelerated = True
except ImportError:  # another implementation of Python
    _accelerated = False

_SPACE = " \t\n\r"


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class _Options:
    """What the C scanner reads its options from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)
    memo: "dict[str, str]" = {}


def loads(text: str | bytes) -> "Any":
    """The value of a JSON text, UTF-8 if it is bytes.

    Raises ValueError, RecursionError for one nested too deeply; NaN and the infinities are refused.
    """
    if isinstance(text, bytes):
        text = text.decode()
    if not _accelerated:
        return _with_json(text)
    start = _skip(text, 0)
    try:
        value, end = _make_scanner(_Options)(text, start)  # type: ignore[arg-type]  # only attributes are read
    except StopIteration as stop:
        raise ValueError(f"Expecting value: {_where(text, stop.value)}") from None
    except SystemError:  # up to 3.12 the scanner cannot word an error unless json is there
        return _with_json(text)
    end = _skip(text, end)
    if end != len(text):
        raise ValueError(f"Extra data: {_where(text, end)}")
    return value


def _with_json(text: str) -> "Any":
    import json

    return json.loads(text, parse_constant=_no_constant)


def _skip(text: str, index: int) -> int:
    while index < len(text) and text[index] in _SPACE:
        index += 1
    return index


def _where(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f"line {line} column {column} (char {index})"


def dumps(value: object) -> str:
    """A value as compact JSON text, letters beyond ASCII as they are. Raises TypeError, ValueError."""
    if not _accelerated:
        import json

        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if isinstance(value, str):
        quoted: str = _quote(value)
        return quoted
    encoder = _make_encoder({}, _unknown, _quote, None, ":", ",", False, False, False)
    return "".join(encoder(value, 0))


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")
