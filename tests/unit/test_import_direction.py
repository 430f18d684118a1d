"""Imports point down the chain only: no part may know that its neighbour is ours."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cutaway"

# part -> the parts it may import, itself left out
ALLOWED = {
    "cli": {"archive", "oci", "trace", "registry", "errors"},
    "engine": {"archive", "oci", "trace", "registry", "pb", "errors", "faults", "heap"},
    "registry": {"oci", "trace", "errors"},
    # The registry's client is no part that stands at a seam: transfers pull and push with it.
    "containerd": {"oci", "trace", "registry", "pb", "errors", "faults", "heap"},
    "shim": {"linux", "oci", "trace", "pb", "errors", "faults"},
    "runc": {"linux", "oci", "trace", "errors", "faults"},
    "linux": {"errors"},
    "archive": {"errors"},
    "heap": set(),
    "oci": {"errors"},
    "trace": {"oci", "errors"},
    "pb": set(),
    "errors": set(),
    "faults": set(),
}

# The zygote is where shim and runtime meet: it preloads both so that a start is a fork.
EXCEPTIONS = {("shim/zygote.py", "runc")}

# Types alone, which cost nothing and call nothing.
TYPES_ONLY = {"linux": {"oci"}}

# What a short program must not pay for when it starts, module by module.
FORBIDDEN_AT_START = {
    "cutaway.cli.main": "aiohttp argparse asyncio dataclasses grpc http msgspec re rich subprocess",
    "cutaway.runc.main": "argparse asyncio dataclasses inspect logging msgspec pathlib re subprocess typing",
    "cutaway.shim.main": "aiohttp argparse asyncio grpc http logging subprocess",
}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def parts_imported(tree: ast.AST) -> set[str]:
    """The parts of Cutaway that a piece of code imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    names.discard("cutaway.__version__")
    return {name.split(".")[1] for name in names if name.startswith("cutaway.")}


def parts_imported_for_types(tree: ast.Module) -> set[str]:
    return parts_imported(ast.Module([node for node in ast.walk(tree) if is_for_types(node)], []))  # type: ignore[misc]


def parts_imported_to_run(tree: ast.Module) -> set[str]:
    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            return node.orelse if is_for_types(node) else self.generic_visit(node)

    return parts_imported(Strip().visit(tree))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    part, text = part_of(path), path.read_text()
    if part == "__init__":
        return
    allowed = (
        ALLOWED[part] | {part} | {to for file, to in EXCEPTIONS if file == str(path.relative_to(SOURCE))}
    )
    to_run = parts_imported_to_run(ast.parse(text)) - allowed
    assert not to_run, f"{path.relative_to(SOURCE)} reaches across a seam to {', '.join(sorted(to_run))}"
    for_types = parts_imported_for_types(ast.parse(text)) - allowed - TYPES_ONLY.get(part, set())
    assert not for_types, f"{path.relative_to(SOURCE)} names types of {', '.join(sorted(for_types))}"


def loaded_by(script: str) -> set[str]:
    """Top-level modules in an interpreter that ran a script."""
    code = f"{script}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("entry", FORBIDDEN_AT_START)
def test_short_programs_start_lean(entry: str) -> None:
    paid = loaded_by(f"import {entry}") - loaded_by("pass")
    too_slow = paid & set(FORBIDDEN_AT_START[entry].split())
    assert not too_slow, f"importing {entry} also imports {', '.join(sorted(too_slow))}"


def test_the_service_knows_no_registry_of_ours() -> None:
    """It may use the client and the names of that package, not the part at the other side of the seam."""
    for path in (SOURCE / "containerd").rglob("*.py"):
        for word in ("registry.server", "registry.hello", "registry.main"):
            assert f"cutaway.{word}" not in path.read_text(), path


def test_every_part_has_a_rule() -> None:
    parts = {part_of(path) for path in modules()} - {"__init__"}
    assert parts == set(ALLOWED)
