"""Death by SIGKILL at every fault point of service, shim and runtime; then everything fits together again.

Scenarios that pass all points between them are run once to learn how often each is passed. Then for each
point, and each time that it is passed, a process dies there; the service is started again and must be as if
it had never done less, or more, than it says: see `Walk.check`. In the end the scenario is run as a whole.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cached_property
from pathlib import Path

import grpc
import pytest

from containerd.task_rig import Events, Refused, Rig, fields_of, rig
from crash.scenarios import SCENARIOS, Tasks
from cutaway.faults import FAULT, LOG
from cutaway.shim.address import path_for
from support import faults
from support.leftovers import cgroups, mounts_below, temporary_base
from support.netns import NetNs
from support.peers import need
from support.process import ProcessFailed, descendants, has_ended, is_zombie, processes_of, wait_until
from support.stack import OurContainerd
from support.storage import broken

pytestmark = [pytest.mark.root, pytest.mark.peers]

RUNNING, STOPPED = 2, 3
CODE = 12

# Of a point that is passed more often: the first times, and every so many-th after (all, if that is 1).
FIRST, EVERY = 2, int(os.environ.get("CUTAWAY_FAULT_EVERY", "11"))

PARTS = ("containerd", "shim", "zygote", "runc")
POINTS = [name for name in faults.names() if name.split(".")[0] in PARTS]
STORED = ("content", "diff", "gc", "metadata", "mounts", "snapshots", "trees", "unpack")


class Walk:
    """A service that dies often, over one task that runs all the time."""

    def __init__(self, base: Path, daemon: OurContainerd) -> None:
        self.base = base
        self.daemon = daemon
        self.log = base / "points"
        self.is_sound = True
        """Whether the last test has come to its end."""
        self.runc_state = Path(f"/run/containerd/runc/{daemon.namespace}")
        self.daemon.start()
        with self.client() as on:
            self.pid = on.running("lasting")
        self.daemon.stop()
        self.mounts, self.cgroups = set(mounts_below(base)), set(cgroups(base.name))
        self.working = set(processes_of(base))
        self.daemon.start()
        self.begin_brief()
        self.daemon.stop()

    def client(self) -> AbstractContextManager[Rig]:
        return rig(self.daemon, self.base, "io.containerd.cutaway.v1")

    def arm(self, fault: str) -> None:
        """Start the service so that it, or what it starts, dies at a point; perhaps at once."""
        self.log.unlink(missing_ok=True)
        self.daemon.env.update({FAULT: fault, LOG: os.fspath(self.log)})
        with suppress(ProcessFailed):
            self.daemon.start()
        del self.daemon.env[FAULT], self.daemon.env[LOG]

    @cached_property
    def passes(self) -> dict[str, dict[str, int]]:
        """By scenario, how often each point is passed."""
        found = {}
        for name, scenario in SCENARIOS.items():
            self.arm("")
            with self.client() as on:
                scenario().run(on)
            self.daemon.stop()
            found[name] = faults.passed(self.log)
        return found

    def die(self, scenario: str, fault: str) -> bool:
        """Run a scenario up to the death; False when that did not come."""
        name, _, count = fault.partition(":")
        self.arm(fault)
        if self.daemon.process.returncode is None:
            with self.client() as on, suppress(grpc.RpcError, Refused):
                SCENARIOS[scenario]().run(on)
        # What is done in the background may come a moment later, or, if it is not the first time, not at all.
        with suppress(AssertionError):
            wait_until(lambda: faults.passed(self.log).get(name, 0) >= int(count), name, timeout=2)
            return True
        return False

    def begin_brief(self) -> None:
        """A task that will end while no service is there."""
        with self.client() as on:
            program = f'trap "exit {CODE}" TERM; sleep 1000 & wait'
            self.brief = on.running("brief", "sh", "-c", program)

    def end_brief(self) -> None:
        os.kill(self.brief, signal.SIGTERM)
        assert has_ended(self.brief, 10)

    def check_brief(self, on: Rig) -> None:
        """Whoever comes back is told how it has ended, whichever way he asks."""
        with Events(on.event_service.stream("Subscribe", filters=["event.container_id==brief"])) as events:
            (exited,) = events.until("/tasks/exit")
            assert fields_of(exited, "id", "pid", "exit_status") == ("brief", self.brief, CODE)
        found = on.tasks("Get", container_id="brief").process
        assert (found.status, found.exit_status) == (STOPPED, CODE)
        assert on.tasks("Wait", container_id="brief").exit_status == CODE
        assert on.drop("brief") == CODE

    def check(self, scenario: str) -> None:
        """The service, started again, has all that it says and nothing else, and works."""
        with self.client() as on:
            self.check_brief(on)
            assert on.tasks("Get", container_id="lasting").process.pid == self.pid
            assert on.statuses()["lasting"] == RUNNING
            wait_until(lambda: not self.broken(), f"files and records fit together: {self.broken()}")
            work = SCENARIOS[scenario]()
            work.clear(on)
            work.run(on)
            # Of the first run and of the second.
            wait_until(lambda: not self.leftovers(), f"nothing is left: {self.leftovers()}")
        self.begin_brief()

    def broken(self) -> list[str]:
        try:
            return broken(self.daemon.root)
        except (OSError, sqlite3.Error) as error:  # changed while it was read
            return [str(error)]

    def leftovers(self) -> list[str]:
        """What is there beside the lasting task, for the machine too."""
        found = [f"mount: {one}" for one in set(mounts_below(self.base)) - self.mounts]
        found += [f"cgroup: {one}" for one in set(cgroups(self.base.name)) - self.cgroups]
        working = processes_of(self.base).items()
        found += [f"process: {pid} {line}" for pid, line in working if self._is_left(pid, line)]
        found += [f"zombie: {pid}" for pid in descendants(self.daemon.pid) if is_zombie(pid)]
        found += [f"runtime: {path}" for path in self.runc_state.glob("*") if path.name != "lasting"]
        found += [f"socket: {id}" for id in Tasks.ids if self._shim_socket(id).exists()]
        found += [f"bundle: {path}" for path in self._bundles() if path.name != "lasting"]
        found += [f"mount point: {path}" for path in (self.daemon.state / "mounts").glob("*")]
        return found + self.broken()

    def _shim_socket(self, id: str) -> Path:
        return Path(path_for(os.fspath(self.daemon.address), self.daemon.namespace, id))

    def _is_left(self, pid: int, line: str) -> bool:
        return pid not in {*self.working, self.daemon.pid} and "zygote" not in line

    def _bundles(self) -> list[Path]:
        tops = (self.daemon.state, self.daemon.root)
        return [path for top in tops for path in top.glob("io.containerd.runtime.v2.task/*/*")]


@pytest.fixture
def walk(walked: Walk) -> Iterator[Walk]:
    """The walk with the service at rest, whatever came of the test before."""
    walked.is_sound = False
    yield walked
    if not walked.is_sound:
        walked.daemon.stop()
        walked.daemon.start()
        with walked.client() as on:
            for scenario in SCENARIOS.values():
                scenario().clear(on)
            if "brief" in on.statuses():
                on.tasks("Kill", container_id="brief", signal=9)
                on.tasks("Wait", container_id="brief")
                on.drop("brief")
        walked.begin_brief()
        walked.daemon.stop()


@pytest.fixture(scope="module")
def walked() -> Iterator[Walk]:
    need("busybox")
    with ExitStack() as held:
        base, netns = held.enter_context(temporary_base()), held.enter_context(NetNs())
        daemon = OurContainerd(base, netns)
        held.callback(daemon.close)
        made = Walk(base, daemon)
        held.callback(shutil.rmtree, made.runc_state, ignore_errors=True)
        yield made


def chosen(count: int) -> list[int]:
    return [number for number in range(1, count + 1) if number <= FIRST or number % EVERY == 0]


def group(name: str) -> str:
    part, area = name.split(".")[:2]
    return "faults-storage" if part == "containerd" and area in STORED else "faults-tasks"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(group(name))) for name in POINTS]
)
def test_death_at_a_point(walk: Walk, name: str) -> None:
    passes = {scenario: found[name] for scenario, found in walk.passes.items() if name in found}
    assert passes, f"no scenario passes {name}"
    for scenario, count in passes.items():
        for number in chosen(count):
            died = walk.die(scenario, f"{name}:{number}")
            assert died or number > 1, f"{name} was not passed"
            if name.startswith("containerd.") and died:
                assert walk.daemon.process.wait() == -signal.SIGKILL
            else:
                assert walk.daemon.process.returncode is None, "the service lives"
            walk.daemon.stop()
            walk.end_brief()
            walk.daemon.start()
            walk.check(scenario)
            walk.daemon.stop()
    walk.is_sound = True
