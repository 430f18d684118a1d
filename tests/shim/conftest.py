"""Shims of both kinds of start, each with a runtime: the real one, and ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.driver import ShimHost
from support.peers import VENV_BIN, need, peer


@pytest.fixture(params=["cold-runc", "warm-cutaway-runc"])
def host(request: pytest.FixtureRequest, base_dir: Path) -> Iterator[ShimHost]:
    """A container service with the real runtime behind exec'd shims, and with ours behind forked ones."""
    need("root", "busybox", "runc")
    if request.param == "cold-runc":
        runtime = os.fspath(peer("runc"))
    else:
        runtime = os.fspath(VENV_BIN / "cutaway-runc")
    with ShimHost(base_dir, warm=request.param.startswith("warm"), runtime=runtime) as found:
        yield found


@pytest.fixture
def warm_host(base_dir: Path) -> Iterator[ShimHost]:
    """Only the quick way, for what does not depend on the runtime."""
    need("root", "busybox")
    with ShimHost(base_dir, warm=True, runtime=os.fspath(VENV_BIN / "cutaway-runc")) as found:
        yield found
