"""Imports point down the chain only: no part may know that its neighbour is ours."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cutaway"

# part -> the parts it may import, itself left out
ALLOWED = {
    "cli": {"oci", "trace", "registry", "errors"},
    "engine": {"oci", "trace", "registry", "pb", "errors"},
    "registry": {"oci", "trace", "errors"},
    "containerd": {"oci", "trace", "pb", "errors"},
    "shim": {"linux", "oci", "trace", "pb", "errors"},
    "runc": {"linux", "oci", "trace", "errors"},
    "linux": {"errors"},
    "oci": {"errors"},
    "trace": {"oci", "errors"},
    "pb": set(),
    "errors": set(),
}

# The zygote is where shim and runtime meet: it preloads both so that a start is a fork.
EXCEPTIONS = {("shim/zygote.py", "runc")}

# What a cold runtime or a CLI command must not pay for at import time, in milliseconds each.
FORBIDDEN_AT_TOP = {
    "cli": {"aiohttp", "argparse", "asyncio", "grpc", "http", "msgspec", "rich", "ssl", "subprocess"},
    "runc": {
        "argparse",
        "asyncio",
        "dataclasses",
        "logging",
        "msgspec",
        "pathlib",
        "re",
        "subprocess",
        "typing",
    },
    "linux": {"argparse", "asyncio", "dataclasses", "logging", "pathlib", "re", "subprocess", "typing"},
    "shim": {"aiohttp", "argparse", "asyncio", "grpc", "logging", "subprocess"},
    "trace": {"asyncio", "dataclasses", "logging", "threading"},
    "oci": {"dataclasses", "msgspec", "re", "typing"},
}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names.add(node.module or "")
            if node.module == "cutaway":
                names.update(f"cutaway.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    parts = {
        name.split(".")[1] for name in imported(ast.parse(path.read_text())) if name.startswith("cutaway.")
    }
    excepted = {to for file, to in EXCEPTIONS if file == str(path.relative_to(SOURCE))}
    wrong = parts - ALLOWED[part] - {part} - excepted
    assert not wrong, f"{path.relative_to(SOURCE)} reaches across a seam to {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_hot_path_modules_import_lazily(path: Path) -> None:
    forbidden = FORBIDDEN_AT_TOP.get(part_of(path), set())
    top = ast.Module(
        [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)],
        [],
    )
    found = {name.split(".")[0] for name in imported(top)} & forbidden
    assert not found, (
        f"{path.relative_to(SOURCE)} imports {', '.join(sorted(found))} at the top: too slow for its path"
    )


def test_every_part_has_a_rule() -> None:
    parts = {part_of(path) for path in modules()} - {"__init__"}
    assert parts == set(ALLOWED)
