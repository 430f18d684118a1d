"""Processes in a cgroup of v2: held, frozen, signalled, killed; the cgroup made and removed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cutaway.errors import FailedPrecondition
from cutaway.linux import cgroups
from cutaway.linux.cgroups import detect
from cutaway.linux.cgroups.v2 import ManagerV2
from runc.bundles import SECONDS
from support.process import has_ended, wait_until


def test_one_hierarchy_and_the_paths_in_it(parent: ManagerV2, sleeper: subprocess.Popen[bytes]) -> None:
    assert set(detect.layout().mounts) == {""}
    inner = cgroups.from_pid(sleeper.pid)
    assert inner.paths() == {"": f"{parent.path}/inner"}
    assert cgroups.from_paths(inner.paths()).pids() == [sleeper.pid]


def test_controllers_reach_the_container_and_stop_there(cgroup: ManagerV2) -> None:
    root = Path(cgroup.root, "cgroup.controllers").read_text().split()
    assert Path(cgroup.path, "cgroup.controllers").read_text().split() == root
    assert Path(cgroup.path, "cgroup.subtree_control").read_text().split() == []


def test_a_relative_path_is_beside_our_own_cgroup(cgroup: ManagerV2) -> None:
    """Ours has processes, so nothing with controllers can be below it."""
    child = os.fork()
    if child == 0:
        cgroup.add(0)
        beside = cgroups.manager("beside", "")
        try:
            beside.create()
            fine = beside.main_path() == f"{os.path.dirname(cgroup.path)}/beside"
            fine &= "pids" in Path(beside.main_path(), "cgroup.controllers").read_text().split()
        finally:
            beside.delete()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_frozen_as_the_kernel_says_it(
    parent: ManagerV2, cgroup: ManagerV2, sleeper: subprocess.Popen[bytes]
) -> None:
    events = Path(cgroup.path, "cgroup.events")
    cgroup.freeze()
    assert "frozen 1" in events.read_text()
    cgroup.thaw()
    assert not cgroup.frozen()
    parent.freeze()
    assert "frozen 1" in events.read_text()
    assert not cgroup.frozen()
    sleeper.terminate()  # v2 lets a frozen process die
    assert sleeper.wait(SECONDS) == -signal.SIGTERM
    parent.thaw()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_signals_reach_those_in_inner_cgroups(
    cgroup: ManagerV2, sleeper: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    below = Path(cgroup.path, "below")
    below.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as deep:
        (below / "cgroup.procs").write_text(str(deep.pid))
        assert sorted(cgroup.pids()) == sorted([sleeper.pid, deep.pid])
        cgroup.kill_all(number)
        assert deep.wait(SECONDS) == sleeper.wait(SECONDS) == -number
    wait_until(lambda: cgroup.pids() == [], "nobody is left")
    cgroup.delete()
    assert not cgroup.exists()


def test_kill_and_delete_at_once(cgroup: ManagerV2, sleeper: subprocess.Popen[bytes]) -> None:
    """A killed process holds its cgroup until it has ended, reaped or not."""
    cgroup.kill_all(signal.SIGKILL)
    cgroup.delete()
    assert not cgroup.exists()
    assert has_ended(sleeper.pid, SECONDS)


def test_below_a_threaded_cgroup(parent: ManagerV2, cgroup: ManagerV2) -> None:
    """There a new cgroup is `domain invalid` until it is threaded as well; cgroup.kill is refused in it."""
    top = Path(parent.path, "top")
    top.mkdir()
    (top / "threaded").mkdir()
    (top / "threaded/cgroup.type").write_text("threaded")
    inner = ManagerV2(f"{top}/threaded/inner")
    assert inner.create() == [inner.path]
    with subprocess.Popen(["sleep", "1000"]) as process:
        (top / "cgroup.procs").write_text(str(process.pid))
        inner.add(process.pid)
        assert inner.pids() == [process.pid]
        with pytest.raises(FailedPrecondition, match=f"processes {process.pid} are in it"):
            inner.delete()
        inner.kill_all(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
