"""The filters of GET /images/json: reference, label, dangling, before, since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from cutaway.engine.images.describe import created_seconds
from cutaway.engine.images.model import Image
from cutaway.errors import InvalidArgument
from cutaway.registry.reference import Reference

Filters = Mapping[str, Sequence[str]]

KNOWN: Final = ("before", "dangling", "label", "reference", "since", "until")
_BOOLEANS: Final = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


def check(filters: Filters) -> None:
    """Raise `InvalidArgument` with Docker's text for a filter that there is not."""
    for name in filters:
        if name not in KNOWN:
            raise InvalidArgument(f"invalid filter '{name}'")


def matches(image: Image, filters: Filters, bounds: Mapping[str, int]) -> bool:
    """Whether an image passes every filter; `bounds` holds the seconds that before and since stand for."""
    created = created_seconds(image)
    if "before" in bounds and created >= bounds["before"]:
        return False
    if "since" in bounds and created <= bounds["since"]:
        return False
    if "dangling" in filters and _dangling(filters["dangling"]) is bool(image.references):
        return False
    if not all(_has_label(image, label) for label in filters.get("label", ())):
        return False
    return "reference" not in filters or bool(image.references)


def restricted(image: Image, filters: Filters) -> Image:
    """An image with only those of its names that a reference filter lets through; all without one."""
    if "reference" not in filters:
        return image
    patterns = filters["reference"]
    kept = [entry for entry in image.references if any(_matches(entry, pattern) for pattern in patterns)]
    repositories = {entry.familiar_name for entry in kept}
    return replace(
        image,
        names=tuple(str(entry) for entry in kept),
        repo_digests=tuple(d for d in image.repo_digests if d.partition("@")[0] in repositories),
    )


def _dangling(values: Sequence[str]) -> bool:
    found = [_BOOLEANS.get(value.lower()) for value in values]
    if None in found or not found:
        raise InvalidArgument(f"invalid filter 'dangling={list(values)}'")
    return bool(found[0])


def _has_label(image: Image, wanted: str) -> bool:
    labels = (image.config.config.labels if image.config.config else None) or {}
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _matches(entry: Reference, pattern: str) -> bool:
    """A pattern fits the familiar name with or without its tag; `*` does not cross a slash."""
    for name in (entry.familiar, entry.familiar_name, str(entry)):
        fits = fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
        if fits or name == pattern:
            return True
    return False
