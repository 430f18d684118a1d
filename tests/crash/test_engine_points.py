"""The engine dies by SIGKILL at each of its fault points while it runs a container; its next run knows all.

A container that was there before goes on, nothing is half there, and what was under way can be done again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException

import pytest

from cutaway.faults import FAULT, LOG
from engine.engine_stack import NAMESPACE, Stack, stack
from support import faults
from support.leftovers import cgroups, mounts_below
from support.peers import VENV_BIN, need
from support.process import ProcessFailed, has_ended, wait_until
from support.stack import OurContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers, pytest.mark.xdist_group("faults-engine")]

POINTS = [name for name in faults.names() if name.startswith("engine.")]
FIRST, EVERY = 1, int(os.environ.get("CUTAWAY_FAULT_EVERY", "7"))
BODY = {
    "Image": "busybox",
    "Cmd": ["sh", "-c", "echo said; exit 7"],
    "HostConfig": {"Binds": ["kept:/kept"], "LogConfig": {"Type": "json-file"}},
}


class Refused(Exception):
    """The engine has refused, or died."""


class Walk:
    def __init__(self, on: Stack) -> None:
        self.on = on
        self.log = on.engine.folder / "points"
        self.id = on.docker("run", "-d", "--name", "lasting", "busybox", "sleep", "1000").strip()
        self.pid = on.inspect("lasting")["State"]["Pid"]
        self.run()
        self.before = self.seen()
        self.passes = self._passes()

    def ask(self, method: str, path: str, body: object = None, *, gone: bool = False) -> object:
        try:
            status, answer = self.on.ask(method, path, body)
        except (OSError, HTTPException, ValueError) as error:
            raise Refused(str(error)) from None
        if status >= 400 and not (gone and status == 404):
            raise Refused(f"{status} {answer}")
        return answer

    def run(self) -> None:
        """What `docker volume create`, `run`, `wait`, `rm`, `tag`, `rmi` and `volume rm` ask for."""
        self.ask("POST", "/volumes/create", {"Name": "kept"})
        self.ask("POST", "/containers/create?name=brief", BODY)
        self.ask("POST", "/containers/brief/start")
        answer = self.ask("POST", "/containers/brief/wait")
        assert isinstance(answer, dict) and answer["StatusCode"] == 7
        assert self.on.docker("logs", "brief") == "said\n"
        self.clear()
        self.ask("POST", "/images/busybox/tag?repo=other&tag=1")
        self.ask("DELETE", "/images/other:1")

    def clear(self) -> None:
        self.ask("DELETE", "/containers/brief?force=1&v=1", gone=True)
        self.ask("DELETE", "/volumes/kept?force=1")
        self.ask("DELETE", "/images/other:1", gone=True)

    def arm(self, fault: str) -> None:
        self.log.unlink(missing_ok=True)
        self.on.engine.env.update({FAULT: fault, LOG: os.fspath(self.log)})
        with suppress(ProcessFailed):
            self.on.engine.start()
        del self.on.engine.env[FAULT], self.on.engine.env[LOG]

    def _passes(self) -> dict[str, int]:
        self.on.engine.stop()
        self.arm("")
        self.run()
        self.on.engine.stop()
        return faults.passed(self.log)

    def die(self, fault: str) -> bool:
        name, _, count = fault.partition(":")
        self.arm(fault)
        if self.on.engine.process.returncode is None:
            with suppress(Refused):
                self.run()
        # The answer may come before the last thing that is done for it.
        died = faults.passed(self.log).get(name, 0) >= int(count)
        assert not died or has_ended(self.on.engine.pid, 10)
        return died

    def seen(self) -> dict[str, list[str]]:
        """What is there of containers, for the engine, its containerd and the machine."""
        ctr, folder = self.on.containerd.ctr, self.on.engine.folder.parent
        return {
            "containers": self.on.docker("ps", "-aq", "--no-trunc").split(),
            "records": ctr("containers", "ls", "-q", namespace=NAMESPACE).stdout.split(),
            "tasks": ctr("task", "ls", "-q", namespace=NAMESPACE).stdout.split(),
            "snapshots": sorted(ctr("snapshots", "ls", namespace=NAMESPACE).stdout.split()),
            "images": sorted(ctr("images", "ls", "-q", namespace=NAMESPACE).stdout.split()),
            "volumes": self.on.docker("volume", "ls", "-q").split(),
            "volume folders": sorted(os.listdir(self.on.engine.root / "volumes")),
            "container folders": sorted(os.listdir(self.on.engine.root / "containers")),
            "namespaces": sorted(os.listdir(self.on.engine.exec_root / "netns")),
            "mounts": sorted(mounts_below(folder)),
            "cgroups": sorted(path for path in cgroups() if self.id in path),
        }

    def check(self) -> None:
        lasting = self.on.inspect("lasting")
        assert (lasting["State"]["Status"], lasting["State"]["Pid"]) == ("running", self.pid)
        status, _ = self.on.ask("GET", "/containers/brief/json")
        assert status in (200, 404)
        if status == 200:
            wait_until(lambda: self.on.state("brief") in ("created", "exited"), "it has ended")
            if self.on.state("brief") == "exited":
                assert self.on.inspect("brief")["State"]["ExitCode"] in (7, 127, 128)
        self.clear()
        self.run()
        wait_until(lambda: self.seen() == self.before, f"{self.before} and {self.seen()}")


@pytest.fixture(scope="module")
def walk() -> Iterator[Walk]:
    need("root", "docker", "busybox", "ctr")
    with stack((), [VENV_BIN], OurContainerd) as made:
        yield Walk(made)


def chosen(count: int) -> list[int]:
    return [number for number in range(1, count + 1) if number <= FIRST or number % EVERY == 0]


@pytest.mark.parametrize("name", POINTS)
def test_death_of_the_engine_at_a_point(walk: Walk, name: str) -> None:
    for number in chosen(walk.passes.get(name, 1)):
        died = walk.die(f"{name}:{number}")
        assert died or number > 1, f"{name} was not passed"
        walk.on.engine.crash()
        walk.on.engine.start()
        walk.check()
        walk.on.engine.stop()
