"""Fixtures for tests that run real daemons, and the words tests use to say what they need.

`netns` and `base_dir` are each test's own. `real_containerd`, `real_dockerd` and `registry` are
started once for a session and share one network namespace, so that the first two can pull from the
third; a test must not rely on finding them empty and cleans up what it makes. One that stops,
crashes or configures a daemon builds its own stack out of `base_dir` and `netns`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.leftovers import temporary_base
from support.netns import NetNs
from support.peers import need
from support.process import Process
from support.stack import RealContainerd, RealDockerd, RealRegistry

# gRPC would start threads in the children that some tests fork, and those tests kill single threads.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

WORDS = {
    "root": "needs root and namespaces",
    "peers": "runs real docker, containerd, runc, podman or a registry",
}


# No test judges time, and on a busy machine any example may be slow.
settings.register_profile("cutaway", deadline=None)
settings.load_profile("cutaway")


def pytest_configure(config: pytest.Config) -> None:
    for word, meaning in WORDS.items():
        config.addinivalue_line("markers", f"{word}: {meaning}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests on one of xdist's workers, as its daemons are; a group of its own wins."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take xdist's group off the names of tests, or `--last-failed` would not find them again."""
    if hasattr(report, "node"):  # we are the one that has workers
        report.nodeid = report.nodeid.rpartition("@")[0] or report.nodeid


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root"):
        need("root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of each running daemon's log beside a failure."""
    report = yield
    if report.failed:
        for process in sorted(Process.live, key=lambda process: process.pid):
            report.sections.append(
                (f"log of {Path(process.command[0]).name} {process.pid}", process.log_tail())
            )
    return report


@pytest.fixture
def base_dir() -> Iterator[Path]:
    """A folder with a short path; what runs or is mounted below it ends with the test."""
    with temporary_base() as base:
        yield base


@pytest.fixture
def netns() -> Iterator[NetNs]:
    """A network namespace of the test's own."""
    need("root")
    with NetNs() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def session_base() -> Iterator[Path]:
    """The folder of the session's daemons."""
    with temporary_base() as base:
        yield base


@pytest.fixture(scope="session")
def session_netns() -> Iterator[NetNs]:
    """The network namespace of the session's daemons."""
    need("root")
    with NetNs() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def real_containerd(session_base: Path, session_netns: NetNs) -> Iterator[RealContainerd]:
    """A real containerd, shared; give each test's objects names of their own."""
    need("containerd", "containerd-shim-runc-v2", "runc", "ctr")
    with RealContainerd(session_base, session_netns) as containerd:
        yield containerd


@pytest.fixture(scope="session")
def real_dockerd(session_base: Path, session_netns: NetNs) -> Iterator[RealDockerd]:
    """A real dockerd with a containerd of its own, shared; it has the image busybox:latest."""
    need("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox")
    with RealDockerd(session_base, session_netns) as dockerd:
        dockerd.load_busybox()
        yield dockerd


@pytest.fixture(scope="session")
def registry(session_base: Path, session_netns: NetNs) -> Iterator[RealRegistry]:
    """A real registry, shared, with library/busybox:latest in it."""
    need("docker-registry", "busybox")
    with RealRegistry(session_base, session_netns) as server:
        server.push_busybox()
        yield server


@pytest.fixture(autouse=True)
def no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's docker and proxy settings out of every test."""
    for name in os.environ:
        if name.startswith(("DOCKER_", "CONTAINERS_", "CONTAINERD_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
