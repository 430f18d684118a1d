"""The rigs for attacks: on the runtime, a bundle, ours to run it with, a piece of the host to leave alone;

on the engine, something that pulls.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.rig import Host
from attacks.victim import Victim
from runc.bundles import Bundle, Runtime
from support.leftovers import temporary_base
from support.peers import VENV_BIN, need
from support.stack import RealContainerd


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the test's own, with a short path."""
    with temporary_base() as base:
        yield base


@pytest.fixture
def ours(place: Path) -> Iterator[Runtime]:
    need("root", "busybox")
    root = place / "root"
    root.mkdir()
    runtime = Runtime(VENV_BIN / "cutaway-runc", root)
    yield runtime
    runtime.clean()


@pytest.fixture
def bundle(place: Path) -> Bundle:
    return Bundle(place / "bundle")


@pytest.fixture
def name(place: Path) -> str:
    return place.name


@pytest.fixture
def outside(place: Path) -> Path:
    """A directory of the host that no container may touch."""
    path = place / "outside"
    path.mkdir()
    (path / "file").write_text("host\n")
    return path


@pytest.fixture
def victim(real_containerd: RealContainerd, request: pytest.FixtureRequest) -> Iterator[Victim]:
    """In a namespace of the test's own; what was good is forgotten at its end."""
    victim = Victim(real_containerd, f"attack-{zlib.crc32(request.node.name.encode()):08x}")
    yield victim
    victim.forget()


@pytest.fixture
def host(place: Path) -> Host:
    return Host(place)


@pytest.fixture
def runtime(host: Host, place: Path) -> Iterator[Runtime]:
    """Ours, run by the copied interpreter."""
    need("root", "busybox")
    root = place / "root"
    root.mkdir()
    runtime = Runtime(host.script, root)
    yield runtime
    runtime.program = VENV_BIN / "cutaway-runc"  # the other may have been overwritten
    runtime.clean()
