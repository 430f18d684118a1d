"""Room for bytes, for inodes and for open files runs out under a working engine.

What does not fit is refused in words, what runs goes on, and the room comes back.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from crash.test_full_disk import fill
from cutaway.oci.archive.spool import FREE_FLOOR
from engine.engine_stack import NAMESPACE, Stack
from support.images import busybox_image, tar, with_layers
from support.leftovers import temporary_base
from support.netns import Command, NetNs
from support.peers import VENV_BIN, need
from support.process import wait_until
from support.stack import Daemon, OurContainerd, OurEngine, RealRegistry
from support.storage import broken

pytestmark = [pytest.mark.root, pytest.mark.peers]

SMALL, LARGE = 32 << 20, 40 << 20
"""Bytes of a disk, and of something that does not shrink and has no room there."""
TICKS = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done"


@contextmanager
def cramped(options: str = "") -> Iterator[Stack]:
    """A stack whose two data roots are small disks of their own."""
    need("root", "docker", "busybox", "ctr", "docker-registry")
    with ExitStack() as held:
        base, netns = held.enter_context(temporary_base()), held.enter_context(NetNs())
        for part in ("ctd", "eng"):
            root = base / part / "root"
            root.mkdir(parents=True)
            size = SMALL + (FREE_FLOOR if part == "eng" else 0)  # which the engine leaves to others
            command: Command = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "small", root]
            subprocess.run(command, check=True)
        below = held.enter_context(OurContainerd(base, netns, [VENV_BIN]))
        engine = held.enter_context(OurEngine(base, netns, below.address))
        made = Stack(engine, below, netns)
        made.load(busybox_image(), "docker.io/library/busybox:latest")
        made.docker("run", "--rm", "busybox", "true")
        yield made
        assert made.docker("run", "--rm", "busybox", "echo", "works") == "works\n"
        assert broken(below.root) == []
        for daemon in (below, engine):
            assert "Traceback" not in daemon.log.read_text()


@pytest.fixture(scope="module")
def small() -> Iterator[Stack]:
    with cramped() as made:
        yield made


@pytest.fixture
def large(tmp_path: Path) -> bytes:
    return tar({"large": os.urandom(LARGE)})


def room(on: Stack) -> list[int]:
    """Free bytes of both disks, in MiB; a database may have grown a little."""
    found = (os.statvfs(root) for root in (on.containerd.root, on.engine.root))
    return [one.f_bavail * one.f_frsize >> 20 for one in found]


def refused_for_room(on: Stack, *command: str) -> None:
    before = room(on)
    said = on.fails(*command)[1]
    assert "no space left" in said.lower() and "Traceback" not in said, said
    wait_until(lambda: all(now >= was - 1 for now, was in zip(room(on), before, strict=True)), "room is back")


def test_an_image_that_does_not_fit_is_not_imported(small: Stack, large: bytes, tmp_path: Path) -> None:
    (tmp_path / "large.tar").write_bytes(large)
    refused_for_room(small, "import", str(tmp_path / "large.tar"), "large:1")


def test_an_archive_that_does_not_fit_is_not_loaded(small: Stack, large: bytes, tmp_path: Path) -> None:
    archive = with_layers(busybox_image(), large).docker_archive("large:1")
    (tmp_path / "image.tar").write_bytes(archive)
    refused_for_room(small, "load", "--input", str(tmp_path / "image.tar"))
    assert "large" not in small.docker("images")


def test_an_image_that_does_not_fit_is_not_pulled(small: Stack, large: bytes) -> None:
    with RealRegistry(small.engine.folder.parent, small.netns) as registry:
        registry.push(with_layers(busybox_image(), large), "large")
        refused_for_room(small, "pull", f"{registry.host}/large")


def test_a_commit_that_does_not_fit(small: Stack) -> None:
    fitting = LARGE * 4 // 10
    small.docker("run", "--name", "source", "busybox", "sh", "-c", f"head -c {fitting} /dev/urandom > /file")
    try:
        refused_for_room(small, "commit", "source", "large:1")
    finally:
        small.docker("rm", "source")


def test_an_image_is_saved_while_the_engines_disk_is_full(small: Stack, tmp_path: Path) -> None:
    filler = fill(small.engine.root)
    try:
        small.docker("save", "--output", str(tmp_path / "saved.tar"), "busybox")
    finally:
        filler.unlink()
    small.docker("load", "--input", str(tmp_path / "saved.tar"))


def test_a_log_that_cannot_be_written_goes_on_later(small: Stack) -> None:
    small.docker("run", "-d", "--name", "clock", "busybox", "sh", "-c", TICKS)
    small.wait_log("clock", "tick 3")
    filler = fill(small.engine.root)
    wait_until(lambda: "not logged" in small.engine.log.read_text(), "the log finds no room", 30)
    assert small.docker("exec", "clock", "echo", "lives") == "lives\n"
    last = small.docker("logs", "--tail", "1", "clock")
    filler.unlink()
    wait_until(lambda: small.docker("logs", "--tail", "1", "clock") != last, "it is logged again")
    small.docker("rm", "-f", "clock")


def test_an_image_of_more_files_than_there_are_inodes(tmp_path: Path) -> None:
    with cramped(",nr_inodes=1200") as made:

        def inodes() -> int:
            return os.statvfs(made.containerd.root).f_ffree

        before = inodes()
        many = tar({f"file-{number}": b"" for number in range(1500)})
        (tmp_path / "image.tar").write_bytes(with_layers(busybox_image(), many).docker_archive("many:1"))
        said = made.fails("load", "--input", str(tmp_path / "image.tar"))[1]
        assert "no space left" in said.lower()
        wait_until(lambda: inodes() >= before - 2, f"the inodes are back: {inodes()} of {before}")


@contextmanager
def few_files(daemon: Daemon, more: int) -> Iterator[None]:
    """A daemon may open no more than a few files beyond those that it has."""
    was = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{daemon.pid}/fd"))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest + 1 + more, was[1]))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, was)


@pytest.mark.parametrize("which", ["engine", "containerd"])
def test_a_daemon_that_may_open_no_more_files(small: Stack, which: str) -> None:
    """It refuses, or is silent, for as long as that lasts; what runs goes on, and nothing is left of it."""
    daemon = small.engine if which == "engine" else small.containerd
    small.docker("run", "-d", "--name", "clock", "busybox", "sleep", "1000")
    pid = small.inspect("clock")["State"]["Pid"]
    for more in (1, 3, 6):
        with few_files(daemon, more), suppress(subprocess.TimeoutExpired):
            small.engine.docker("run", "--name", "few", "busybox", "true", check=False, timeout=8)
        assert daemon.process.returncode is None
        small.docker("rm", "-f", "few", check=False)
    assert small.docker("ps", "-a", "--format", "{{.Names}} {{.State}}") == "clock running\n"
    assert small.inspect("clock")["State"]["Pid"] == pid
    tasks = small.containerd.ctr("task", "ls", "-q", namespace=NAMESPACE).stdout.split()
    assert tasks == [small.inspect("clock")["Id"]]
    small.docker("rm", "-f", "clock")
    # asyncio tells of a connection that it cannot accept by a traceback of its own.
    os.truncate(small.engine.log, 0)
