"""Tests that need cgroup v2 alone, as most machines have it; elsewhere `make test-vm` runs them."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.linux import cgroups
from cutaway.linux.cgroups.v2 import ManagerV2
from runc.conftest import bundle, name, ours, place, runtime
from support.peers import need

__all__ = ["bundle", "name", "ours", "place", "runtime"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    need("root")
    if cgroups.mode() != "unified":
        pytest.skip("needs cgroup2: this machine has cgroup v1 (see `make test-vm`)")


@pytest.fixture
def parent() -> Iterator[ManagerV2]:
    """A cgroup of the test's own, made, for those it makes below."""
    manager = cgroups.manager(f"/cw-vm-{secrets.token_hex(4)}", "")
    assert isinstance(manager, ManagerV2)
    manager.create()
    yield manager
    manager.kill_all(signal.SIGKILL)
    manager.delete()


@pytest.fixture
def cgroup(parent: ManagerV2) -> ManagerV2:
    """A container's cgroup, made."""
    manager = ManagerV2(f"{parent.path}/inner")
    manager.create()
    return manager


@pytest.fixture
def sleeper(cgroup: ManagerV2) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the cgroup that sleeps."""
    process = subprocess.Popen(["sleep", "1000"])
    cgroup.add(process.pid)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def disk(place: Path) -> Iterator[str]:
    """A block device, as `major:minor`."""
    image = place / "disk"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    found = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=False)
    device = found.stdout.strip()
    if subprocess.run(["losetup", device, image], capture_output=True, check=False).returncode:
        pytest.skip("needs loop devices")
    try:
        yield Path("/sys/block", Path(device).name, "dev").read_text().strip()
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
