"""The machine's clock jumps: by the hand of its administrator, by NTP, by a virtual machine that was paused.

The real libfaketime puts our daemons, and what they start, into a time that a file names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.engine_stack import NAMESPACE, Stack
from support.images import busybox_image
from support.leftovers import temporary_base
from support.netns import NetNs
from support.peers import PEERS, lack
from support.process import wait_until
from support.stack import OurContainerd, OurEngine, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

IMAGE = "127.0.0.1:5000/library/busybox"


@dataclass
class Machine:
    """Daemons with a clock of their own."""

    stack: Stack
    clock: Path

    def jump(self, offset: str) -> None:
        """Be so far from the real time from now on, e.g. -2d."""
        beside = self.clock.with_suffix(".new")
        beside.write_text(offset)
        os.rename(beside, self.clock)

    def year(self) -> int:
        """That of the engine's clock."""
        return int(self.stack.ask("GET", "/info")[1]["SystemTime"][:4])


def faketime() -> Path:
    found = sorted(PEERS.glob("root/usr/lib/*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else lack("needs libfaketime")


@pytest.fixture
def machine() -> Iterator[Machine]:
    library = faketime()
    with ExitStack() as on:
        base, netns = on.enter_context(temporary_base()), on.enter_context(NetNs())
        clock = base / "clock"
        clock.write_text("+0")
        env = {
            "LD_PRELOAD": os.fspath(library),
            "FAKETIME_TIMESTAMP_FILE": os.fspath(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        registry = on.enter_context(RealRegistry(base, netns, port=5000))
        registry.push(busybox_image(), "library/busybox", "latest")
        containerd = on.enter_context(OurContainerd(base, netns, env=env))
        engine = on.enter_context(OurEngine(base, netns, containerd.address, env=env))
        yield Machine(Stack(engine, containerd, netns), clock)


@pytest.mark.parametrize("offset", ["+400d", "-400d"])
def test_containers_live_through_a_jump(machine: Machine, offset: str) -> None:
    docker = machine.stack.docker
    docker("pull", IMAGE)
    docker(
        "run",
        "-d",
        "--name",
        "box",
        IMAGE,
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done",
    )
    before = machine.year()
    machine.jump(offset)
    assert machine.year() in ({before + 1, before + 2} if offset[0] == "+" else {before - 1, before - 2})
    assert docker("exec", "box", "echo", "in") == "in\n"
    assert docker("run", "--rm", IMAGE, "echo", "new") == "new\n"
    docker("stop", "--time", "60", "box")
    assert docker("wait", "box") == "7\n"
    assert docker("logs", "box") == "up\n"
    machine.jump("+0")
    docker("start", "box")
    docker("kill", "box")
    assert docker("wait", "box") == "137\n"
    docker("rm", "box")


def test_a_clock_that_goes_back_and_forth_takes_nothing_that_is_used(machine: Machine) -> None:
    """Leases end by the clock; what an image or a container refers to needs none."""
    docker = machine.stack.docker
    docker("pull", IMAGE)
    docker("run", "-d", "--name", "box", IMAGE, "sleep", "1000")
    for offset in ("+400d", "-400d", "+0"):
        machine.jump(offset)
        docker("create", "--name", "once", IMAGE, "true")
        docker("rm", "once")  # collects
    assert docker("exec", "box", "echo", "in") == "in\n"
    assert docker("run", "--rm", IMAGE, "echo", "new") == "new\n"
    docker("rm", "-f", "box")


def test_restarts_after_a_jump_backwards_wait_no_longer_than_else(machine: Machine) -> None:
    docker = machine.stack.docker
    docker("pull", IMAGE)
    machine.jump("-400d")
    docker("run", "-d", "--name", "box", "--restart", "on-failure:2", IMAGE, "false")
    wait_until(lambda: machine.stack.inspect("box")["RestartCount"] == 2, "two restarts")
    wait_until(lambda: machine.stack.state("box") == "exited", "its end")
    docker("rm", "box")


def test_a_lease_that_the_clock_has_passed_holds_nothing_more(machine: Machine) -> None:
    """As in containerd: `containerd.io/gc.expire` is a time of day."""
    ctr = machine.stack.containerd.ctr
    ctr("leases", "create", "--id", "short", "--expires", "24h", namespace=NAMESPACE)
    machine.jump("+2d")
    machine.stack.docker("pull", IMAGE)
    machine.stack.docker("rmi", IMAGE)  # collects
    wait_until(lambda: "short" not in ctr("leases", "ls", namespace=NAMESPACE).stdout, "the lease to end")
