"""One real dockerd for the whole folder, with busybox in it and a registry beside it."""

from __future__ import annotations

import pytest

from cli.side_by_side import SideBySide
from support.peers import need
from support.stack import RealDockerd


@pytest.fixture(scope="session")
def both(real_dockerd: RealDockerd) -> SideBySide:
    """docker and cutaway on one real dockerd."""
    need("docker")
    return SideBySide(real_dockerd)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here shares one dockerd, so it stays on one worker."""
    for item in items:
        if "tests/cli/test_" in str(item.path):
            item.add_marker(pytest.mark.xdist_group("cli"), append=False)
