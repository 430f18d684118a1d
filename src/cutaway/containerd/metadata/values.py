"""How values are kept in columns, and the rules that all kinds of objects share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

import msgspec

Labels = dict[str, str]


def now() -> int:
    """The time as columns hold it: nanoseconds since the epoch."""
    return time.time_ns()


def kept(labels: Mapping[str, str]) -> Labels:
    """Labels as they will be found again: one with an empty value is not kept, that is how it is removed."""
    return {key: value for key, value in labels.items() if value}


def dump(labels: Mapping[str, str]) -> str:
    """Labels as a column."""
    return json.dumps(kept(labels), separators=(",", ":"), sort_keys=True)


def load(column: str) -> Labels:
    return msgspec.json.decode(column, type=Labels)


def masked(
    old: Labels, new: Mapping[str, str], paths: Iterable[str], prefix: str = "labels"
) -> tuple[Labels, list[str]]:
    """Labels after an update by field mask, and the mask's paths that are not about labels.

    `labels` replaces all of them, `labels.KEY` the one (dots in KEY need no quotes).
    """
    labels, others = dict(old), []
    for path in paths:
        if path == prefix:
            labels = dict(new)
        elif path.startswith(f"{prefix}."):
            key = path[len(prefix) + 1 :]
            labels[key] = new.get(key, "")
        else:
            others.append(path)
    return labels, others
