"""The engine's stack, started once a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.engine_stack import Stack, stack
from support.peers import need


@pytest.fixture(scope="module")
def shared_stack() -> Iterator[Stack]:
    """One stack for a module's tests."""
    need("root", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    with stack() as made:
        yield made


@pytest.fixture
def engine_stack(shared_stack: Stack) -> Iterator[Stack]:
    """The module's stack, emptied of containers after each test."""
    yield shared_stack
    shared_stack.remove_all()
