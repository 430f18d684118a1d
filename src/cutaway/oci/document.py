"""Typed JSON documents that cost nothing to import.

An OCI document is a class with annotated fields:

    class Process(Document):
        args: list[str] = []
        io_priority: IoPriority | None = field(default=None, name="ioPriority")

and is read with `decode(Process, obj)`, which either returns a fully typed value or raises
`InvalidArgument` naming the JSON path and what was expected (`process.args[0]: expected string,
got number`). `encode(value)` is its inverse; fields that are None are left out.

Why not msgspec or dataclasses here: the cold runtime has 12 ms over the bare interpreter for
everything; msgspec costs 20 ms to import, and every @dataclass about 0.4 ms of generated code.
This module imports next to nothing and does its work per class on first use.

Field names: `snake_case` attributes are `camelCase` in JSON unless `field(name=...)` says otherwise.
Unknown keys are ignored, as the OCI specs demand of readers. A JSON null means absent.
"""

import types

from cutaway.errors import InvalidArgument
from cutaway.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar, dataclass_transform

    D = TypeVar("D", bound="Document")
else:

    def dataclass_transform(**_):
        return lambda cls: cls


class _Field:
    """What `field()` leaves in the class body until the class is compiled."""

    __slots__ = ("default", "name")

    def __init__(self, default: object, name: str | None) -> None:
        self.default = default
        self.name = name


_MISSING = object()


def field(*, default: "Any" = _MISSING, name: str | None = None) -> "Any":
    """Declare a field whose JSON key is not the camelCase of its attribute; required without a default."""
    return _Field(default, name)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class Document:
    """Base of typed documents: keyword-only construction, equality by value."""

    # name -> (json key, annotation, default or _MISSING); filled by __init_subclass__
    _fields: "dict[str, tuple[str, Any, Any]]" = {}

    def __init_subclass__(cls) -> None:
        fields = dict(cls._fields)
        for name, annotation in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063 (inspect: 8 ms)
            default = cls.__dict__.get(name, _MISSING)
            key = _camel(name)
            if isinstance(default, _Field):
                key, default = default.name or key, default.default
                if default is _MISSING:
                    delattr(cls, name)
                else:
                    setattr(cls, name, default)
            fields[name] = (key, annotation, default)
        cls._fields = fields

    def __init__(self, **values: object) -> None:
        for name, (_, _, default) in self._fields.items():
            if name in values:
                value = values.pop(name)
            elif default is _MISSING:
                raise TypeError(f"{type(self).__name__} needs {name}")
            else:
                value = _fresh(default)
            self.__dict__[name] = value
        if values:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(values)}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items() if v is not None)
        return f"{type(self).__name__}({inner})"

    __hash__ = None  # type: ignore[assignment]  # mutable


def _fresh(default: "Any") -> "Any":
    """A default of its own for every document: mutable ones must not be shared."""
    if isinstance(default, list | dict):
        return default.copy()
    if isinstance(default, Document):
        return type(default)(**default.__dict__)
    return default


_JSON_NAMES = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}


def _name(value: object) -> str:
    return _JSON_NAMES.get(type(value), type(value).__name__)


def _fail(path: str, expected: str, value: object) -> InvalidArgument:
    return InvalidArgument(f"{path or 'document'}: expected {expected}, got {_name(value)}")


def decode(cls: "type[D]", obj: object, path: str = "") -> "D":
    """Turn parsed JSON into a `cls`.

    Raises `InvalidArgument` with the JSON path of the first value of a wrong type and of a missing
    required field. `path` is put before every path, e.g. "config.json:".
    """
    if not isinstance(obj, dict):
        raise _fail(path, "object", obj)
    values: dict[str, Any] = {}
    for name, (key, annotation, default) in cls._fields.items():
        here = f"{path}.{key}" if path and not path.endswith(":") else f"{path}{key}"
        value = obj.get(key)
        if value is None:
            if default is _MISSING:
                raise InvalidArgument(f"{here}: required, but missing")
            value = _fresh(default)
        else:
            value = _convert(annotation, value, here)
        values[name] = value
    document = cls.__new__(cls)
    document.__dict__.update(values)
    return document


def _convert(annotation: "Any", value: object, path: str) -> object:
    """Check `value` against one annotation: Document, list[X], dict[str, X], scalars, X | None."""
    if isinstance(annotation, types.UnionType):
        options = [a for a in annotation.__args__ if a is not type(None)]
        if len(options) > 1:
            return _convert_union(options, value, path)
        annotation = options[0]
    if isinstance(annotation, types.GenericAlias):
        return _convert_container(annotation, value, path)
    if annotation is object:
        return value
    if annotation is int:
        return _integer(value, path)
    if annotation is float and type(value) in (int, float):
        return value
    if annotation in (str, bool, dict, list, float):
        if type(value) is annotation:
            return value
        raise _fail(path, _JSON_NAMES[annotation], value)
    return decode(annotation, value, path)


def _convert_union(options: "list[Any]", value: object, path: str) -> object:
    for option in options:
        try:
            return _convert(option, value, path)
        except InvalidArgument:
            continue
    raise _fail(path, " or ".join(_JSON_NAMES.get(option, "object") for option in options), value)


def _convert_container(annotation: types.GenericAlias, value: object, path: str) -> object:
    if annotation.__origin__ is list:
        if not isinstance(value, list):
            raise _fail(path, "array", value)
        (item,) = annotation.__args__
        if item is str:  # the common case, without a call per item
            for index, entry in enumerate(value):
                if type(entry) is not str:
                    raise _fail(f"{path}[{index}]", "string", entry)
            return value
        return [_convert(item, entry, f"{path}[{index}]") for index, entry in enumerate(value)]
    if not isinstance(value, dict):
        raise _fail(path, "object", value)
    item = annotation.__args__[1]
    return {key: _convert(item, entry, f"{path}.{key}") for key, entry in value.items()}


def _integer(value: object, path: str) -> int:
    """A JSON number without a fraction, within 64 bits (signed or unsigned)."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise InvalidArgument(f"{path}: expected integer, got {_name(value)}")
    if not -(1 << 63) <= value < (1 << 64):
        raise InvalidArgument(f"{path}: {value} does not fit into 64 bits")
    return value


def encode(value: object) -> "Any":
    """Turn a document (or a list or dict of them) into plain JSON values; None fields are omitted."""
    if isinstance(value, Document):
        fields = value._fields
        return {fields[name][0]: encode(item) for name, item in value.__dict__.items() if item is not None}
    if isinstance(value, list | tuple):  # mostly of strings, which need no call
        return [item if type(item) is str else encode(item) for item in value]
    if isinstance(value, dict):
        return {key: item if type(item) is str else encode(item) for key, item in value.items()}
    return value


def loads(cls: "type[D]", text: bytes | str, what: str) -> "D":
    """Parse JSON text into a `cls`; `what` names the text in errors (a file name, "request body")."""
    try:
        obj = jsontext.loads(text)
    except RecursionError:
        raise InvalidArgument(f"{what}: nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"{what}: not valid JSON: {error}") from None
    return decode(cls, obj, f"{what}:")


def dumps(value: object) -> str:
    """The document as compact JSON text."""
    return jsontext.dumps(encode(value))


def plain(value: "Mapping[str, object]") -> "dict[str, object]":
    """A copy of a mapping as a plain dict, documents in it encoded."""
    return {key: encode(item) for key, item in value.items()}
