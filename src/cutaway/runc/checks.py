"""Checks of single values that the whole configuration shares; each error names the value's JSON path."""

import os

from cutaway.errors import InvalidArgument
from cutaway.oci.document import Document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cutaway.oci.runtime_spec import IdMapping

_UINT32 = 1 << 32


def wrong(words: str, path: str, expected: str) -> InvalidArgument:
    """The error for a value: in runc's words, then where it is and what would be right."""
    return InvalidArgument(f"{words} ({path}: expected {expected})")


def one_of(known: "Iterable[str]") -> str:
    """What would be right, where there are only so many."""
    return "one of " + ", ".join(known)


def texts(path: str, values: list[str]) -> None:
    """Texts that go to the kernel or to a program. Raises `InvalidArgument`."""
    for index, text in enumerate(values):
        if "\0" in text:
            raise InvalidArgument(f"{path}[{index}]: a zero byte cannot be passed to a program")
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise InvalidArgument(f"{path}[{index}]: not a text that can be encoded") from None


def all_texts(value: object, path: str) -> None:
    """Every text below a value but for annotations, which go nowhere. Raises `InvalidArgument`."""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidArgument(f"{path}: a zero byte cannot be passed to a program")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{path}: not a text that can be encoded") from None
    elif isinstance(value, list):
        for index, item in enumerate(value):
            all_texts(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            all_texts(key, path)
            all_texts(item, f"{path}.{key}")
    elif isinstance(value, Document):
        dot = "" if path.endswith(":") else "."
        for name, item in value.__dict__.items():
            if name != "annotations":
                all_texts(item, f"{path}{dot}{value._fields[name][0]}")


def uint32(path: str, value: int) -> None:
    """An id, a mode, a device number. Raises `InvalidArgument`."""
    if not 0 <= value < _UINT32:
        raise InvalidArgument(f"{path}: expected an unsigned 32-bit number, got {value}")


def mapping(path: str, found: "IdMapping") -> None:
    """One line of an id map. Raises `InvalidArgument`."""
    for name, (key, _, _) in found._fields.items():
        uint32(f"{path}.{key}", getattr(found, name))
