"""The user's runtimes, ours and the reference, and a bundle of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from runc.rootless.parts import (
    OURS,
    default,
    runtime_of,
)
from runc.rootless.users import ID, User
from support.leftovers import temporary_base
from support.peers import need, peer


@pytest.fixture(scope="package")
def user() -> Iterator[User]:
    need("root", "newuidmap", "newgidmap")
    with temporary_base() as base:
        found = User(base)
        try:
            yield found
        finally:
            found.close()


@pytest.fixture(params=["cutaway-runc", "runc"])
def runtime(request: pytest.FixtureRequest, user: User, place: Path) -> Iterator[Runtime]:
    """Ours, then the reference, run by the user."""
    need("busybox")
    yield from runtime_of(peer("runc") if request.param == "runc" else OURS, user, place)


@pytest.fixture
def ours(user: User, place: Path) -> Iterator[Runtime]:
    need("busybox")
    yield from runtime_of(OURS, user, place)


@pytest.fixture
def bundle(user: User, place: Path) -> Bundle:
    """A bundle of the user's own, with the configuration for users."""
    found = Bundle(place / "bundle")
    found.config = default(user)
    found.process.update(terminal=False, args=["true"])
    found.process["env"] = ["PATH=/bin"]
    user.own(found.path)
    return found


@pytest.fixture
def inner(user: User, place: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Runtime]]:
    """Runtimes as podman has them: root of a user namespace with a mount namespace of its own."""
    made: list[Runtime] = []

    def make(program: Path) -> Runtime:
        root = place / f"root-{program.name}"
        root.mkdir()
        os.chown(root, ID, ID)
        enter = ["unshare", "--user", "--map-root-user", "--mount"]
        made.append(Runtime(program, root, prefix=[*user.prefix(), *enter]))
        return made[-1]

    yield make
    for runtime in made:
        runtime.clean()
