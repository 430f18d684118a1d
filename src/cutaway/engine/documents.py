"""Typed JSON the way Docker spells it: keys in PascalCase, null where nothing is set.

The same machinery as `cutaway.oci.document` (whose docstring explains it) with these two differences.
"""

from __future__ import annotations

import json

from cutaway.oci.document import Document, encode


class DockerDocument(Document):
    """A document whose `memory_swap` is `MemorySwap` in JSON unless `field(name=...)` says otherwise."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields = {
            name: (key[0].upper() + key[1:], annotation, default)
            for name, (key, annotation, default) in cls._fields.items()
        }


def wire(value: object) -> object:
    """Plain JSON values of a document, with None kept as null: Docker's clients expect every key."""
    if isinstance(value, DockerDocument):
        fields = value._fields
        return {fields[name][0]: wire(item) for name, item in value.__dict__.items()}
    if isinstance(value, Document):
        return encode(value)
    if isinstance(value, list | tuple):
        return [wire(item) for item in value]
    if isinstance(value, dict):
        return {key: wire(item) for key, item in value.items()}
    return value


def to_json(value: object) -> str:
    """Compact JSON text of plain values and documents."""
    return json.dumps(wire(value), separators=(",", ":"), ensure_ascii=False)
