"""The fault points of the source, and which of them a run of a program passes."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/cutaway"


def places() -> list[tuple[str, Path]]:
    """The name of every fault point with its file. A name that is not written out is an AssertionError."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if "cutaway.faults" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "point":
                (name,) = node.args
                assert isinstance(name, ast.Constant) and isinstance(name.value, str), f"{path}:{node.lineno}"
                found.append((name.value, path))
    return found


def names() -> list[str]:
    """The names of all fault points."""
    return sorted(name for name, _ in places())


def passed(log: Path) -> dict[str, int]:
    """How often a point was passed, by the process that did so most often, as a log of points tells."""
    lines = Counter(log.read_text().splitlines()) if log.exists() else Counter[str]()
    most: dict[str, int] = {}
    for line, count in lines.items():
        name = line.split()[0]
        most[name] = max(most.get(name, 0), count)
    return most
