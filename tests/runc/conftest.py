"""Each behaviour runs on ours and on the real runc: the reference proves the test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from support.leftovers import temporary_base
from support.peers import VENV_BIN, need, peer


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the test's own, with a short path."""
    with temporary_base() as base:
        yield base


@pytest.fixture(params=["cutaway-runc", "runc"])
def runtime(request: pytest.FixtureRequest, place: Path) -> Iterator[Runtime]:
    """Ours, then the reference."""
    need("root", "busybox")
    program = peer("runc") if request.param == "runc" else VENV_BIN / "cutaway-runc"
    yield from _prepared(program, place)


@pytest.fixture
def ours(place: Path) -> Iterator[Runtime]:
    """Ours alone, for what the reference does not do or does otherwise."""
    need("root", "busybox")
    yield from _prepared(VENV_BIN / "cutaway-runc", place)


def _prepared(program: Path, place: Path) -> Iterator[Runtime]:
    root = place / "root"
    root.mkdir()
    runtime = Runtime(program, root)
    yield runtime
    runtime.clean()


@pytest.fixture
def bundle(place: Path) -> Bundle:
    """A bundle with busybox."""
    need("busybox")
    return Bundle(place / "bundle")


@pytest.fixture
def name() -> str:
    """A container's name that nobody else has: cgroups are named after it."""
    return f"cw-{secrets.token_hex(4)}"
