"""A random walk: clients work, daemons die where chance has it, are started again, and all fits together.

In a round two clients do a mixed workload while a process dies: at a fault point, at any moment by SIGKILL,
or both. A dead daemon is started again at once, as a service manager does. At the end of the round one
container ends while some daemon may be down, and then engine, service and machine must tell the same, and
all that was promised by an answer must hold: see `Walk.check`.

A walk is some rounds on one stack. `make crash ROUNDS=n` walks longer, from a seed of the day; what a failed
round is to be repeated with is in its message (chance decides what is done, not how threads meet).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from containerd.client import Client
from crash.api import Api, Broken, Failed, Refused
from crash.machine import Machine
from crash.workload import BASE, Brief, Workload
from cutaway.faults import FAULT, LOG
from cutaway.pb import leases_pb2
from engine.engine_stack import NAMESPACE, Stack, stack
from support import faults
from support.peers import VENV_BIN, need
from support.process import ProcessFailed, has_ended, processes_of, wait_until
from support.stack import Daemon, OurContainerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers, pytest.mark.timeout(600)]

ROUNDS = int(os.environ.get("CUTAWAY_CRASH_ROUNDS", "4"))
SEED = os.environ.get("CUTAWAY_CRASH_SEED", "1")
AT_ONCE = 6
"""So many rounds see one stack."""
OPERATIONS = 7

PARTS = ("engine", "containerd", "zygote", "shim", "runc")
ABOVE = PARTS[:2]
"""When one of these dies no container does."""
POINTS = [name for name in faults.names() if name.split(".")[0] in PARTS]
TIMES = (1, 1, 2, 3, 5, 8)
ENDED_SOMEHOW = {125, 126, 127, 128, 137, 255}


class Keeper:
    """Starts daemons again that have died."""

    def __init__(self, *daemons: Daemon) -> None:
        self._daemons = daemons
        self._ended = threading.Event()
        self.deaths: list[str] = []
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._ended.wait(0.02):
            for daemon in self._daemons:
                if daemon.process.returncode is not None:
                    self.deaths.append(type(daemon).__name__)
                    try:
                        restart(daemon)
                    except ProcessFailed as error:
                        if daemon.process.returncode != -signal.SIGKILL:
                            self.failures.append(error)


def restart(daemon: Daemon) -> None:
    daemon.crash()  # clears its pid file away
    daemon.start()


class Walk:
    """One stack and what is known of it."""

    def __init__(self, on: Stack, registry: RealRegistry) -> None:
        self.on = on
        self.api = Api(on.engine)
        self.machine = Machine(on, self.api)
        self.work = Workload(on, registry, self.api)
        self.log = on.engine.folder / "points"
        self.pids: dict[str, int] = {}
        self.daemons: dict[str, Daemon] = {"engine": on.engine, "containerd": on.containerd}

    def round(self, random: Random) -> str:
        """One round; what was done in it, for whoever reads of its failure."""
        self.ready()
        last = self._lasting(random)
        fault = f"{random.choice(POINTS)}:{random.choice(TIMES)}" if random.random() < 0.8 else ""
        kill = random.choice(PARTS) if random.random() < 0.4 else ""
        story = f"fault {fault or 'none'}, kill {kill or 'none'}"
        part = fault.partition(".")[0]
        armed = self.daemons["engine" if part == "engine" else "containerd"]
        self.work.refusals.clear()
        if fault:
            self.arm(armed, fault)
        with Keeper(*self.daemons.values()) as keeper:
            self._clients(random, kill)
        if keeper.failures:
            raise keeper.failures[0]
        died = keeper.deaths or kill or self.passed(fault)
        harsh = kill not in ("", *ABOVE) or (bool(fault) and part not in ABOVE and self.passed(fault))
        assert died or not self.work.refusals, f"{story}, nothing died, but {self.work.refusals}"
        down = [name for name in self.daemons if random.random() < 0.5]
        if fault and (name := "engine" if part == "engine" else "containerd") not in down:
            down.append(name)  # to be rid of the fault
        random.shuffle(down)
        # One that died last of all has not been seen to.
        down += [name for name in self.daemons if self.daemons[name].process.returncode is not None]
        down = list(dict.fromkeys(down))
        for name in down:
            self.daemons[name].crash() if random.random() < 0.5 else self.daemons[name].stop()
        self._end(last)
        for name in sorted(down):  # the service first: the engine needs it
            self.daemons[name].start()
        story += f", died {keeper.deaths}, then restarted {down}"
        try:
            self.check(harsh)
        except Exception as error:
            raise AssertionError(f"{story}: {error}\nrefused: {self.work.refusals}") from error
        return story

    def ready(self) -> None:
        """The lasting containers run; one that a harsh round has ended may have been pruned."""
        for name, network in (("keeper", "bridge"), ("toy", "none")):
            body = {"Image": BASE, "Cmd": ["sleep", "100000"], "HostConfig": {"NetworkMode": network}}
            with suppress(Refused):
                self.api.post(f"/containers/create?name={name}", body)
            with suppress(Refused):
                self.api.post(f"/containers/{name}/unpause")
            self.api.post(f"/containers/{name}/start")
            self.pids[name] = self.on.inspect(name)["State"]["Pid"]

    def _lasting(self, random: Random) -> Brief:
        """A container that will end when it is told to."""
        code = 3 + random.randrange(90)
        brief = self.work.make(random, f'trap "echo end; exit {code}" TERM; echo begin; sleep 1000 & wait')
        brief.code = code
        self.work.start(brief)
        wait_until(
            lambda: b"begin" in self.api.send("GET", f"/containers/{brief.name}/logs?stdout=1"), "it runs"
        )
        self.pids[brief.name] = self.on.inspect(brief.name)["State"]["Pid"]
        return brief

    def _end(self, brief: Brief) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pids[brief.name], signal.SIGTERM)
        assert has_ended(self.pids[brief.name], 20)

    def arm(self, daemon: Daemon, fault: str) -> None:
        """Start a daemon again that will die, or from which something will."""
        self.log.unlink(missing_ok=True)
        daemon.stop()
        daemon.env.update({FAULT: fault, LOG: os.fspath(self.log)})
        with suppress(ProcessFailed):
            daemon.start()
        del daemon.env[FAULT], daemon.env[LOG]

    def passed(self, fault: str) -> bool:
        name, _, count = fault.partition(":")
        return bool(fault) and faults.passed(self.log).get(name, 0) >= int(count)

    def _clients(self, random: Random, kill: str) -> None:
        seeds, moment = [random.random() for _ in range(2)], random.random() * 1.5
        threads = [threading.Thread(target=self.work.work, args=(Random(seed), OPERATIONS)) for seed in seeds]
        if kill:
            threads.append(threading.Thread(target=self._kill, args=(kill, moment, random.random())))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _kill(self, what: str, after: float, which: float) -> None:
        time.sleep(after)  # any moment is as good as any other
        deadline = time.monotonic() + 1
        while not (found := self._victims(what)) and time.monotonic() < deadline:
            time.sleep(0.001)
        if found:
            with suppress(ProcessLookupError):
                os.kill(found[int(which * len(found))], signal.SIGKILL)

    def _victims(self, what: str) -> list[int]:
        if what in self.daemons:
            return [self.daemons[what].pid]
        lines = processes_of(self.on.containerd.folder.parent)
        if what == "zygote":
            return [pid for pid, line in lines.items() if "cutaway.shim.zygote" in line]
        shims = [pid for pid, line in lines.items() if "shim-cutaway-v1" in line]
        # A call of the runtime is a child of a shim that has its title until it takes another.
        calls = [pid for pid in shims if parent_of(pid) in shims]
        calls += [pid for pid, line in lines.items() if line.startswith("runc:")]
        return calls if what == "runc" else [pid for pid in shims if pid not in calls]

    # Afterwards.

    def check(self, harsh: bool) -> None:
        """All fits together, and all that was promised holds."""
        wait_until(lambda: not self.work.still_waiting(), "whoever waits for an end is told of it", 30)
        self.machine.settle()
        wrong = [f"{name} is not there" for name in self.work.known() if not self._there(f"/images/{name}")]
        for brief in list(self.work.briefs.values()):
            wrong += self._wrong(brief, harsh)
        wrong += self._wrong_lasting(harsh)
        assert not wrong, wrong
        if harsh:
            self.work.briefs.clear()
        assert self.work.run(Random(1)).started

    def _wrong(self, brief: Brief, harsh: bool) -> list[str]:
        """What was promised of a container and is not so."""
        there = self._there(f"/containers/{brief.name}")
        if brief.gone:
            return [f"{brief.name} is back"] if there else []
        if not there:
            return [] if brief.in_doubt or brief.vanishes or not brief.started else [f"{brief.name} is lost"]
        state = self.on.inspect(brief.name)["State"]
        said = self.api.send("GET", f"/containers/{brief.name}/logs?stdout=1")
        if brief.vanishes and brief.started:
            return [f"{brief.name} has not vanished: {state}"]
        if state["Status"] == "created" and not brief.started:
            return []
        codes = {brief.code} | (ENDED_SOMEHOW if harsh or brief.in_doubt or not brief.started else set())
        if state["Status"] != "exited" or state["ExitCode"] not in codes:
            return [f"{brief} is {state}"]
        if len(codes) > 1:
            return []
        wrong = (
            [f"{brief} was told {brief.answers}"] if set(brief.answers) - codes or not brief.answers else []
        )
        if said.count(b"begin") != 1 or said.count(b"end") != 1:
            wrong.append(f"{brief.name} has said {said!r}")
        return wrong

    def _wrong_lasting(self, harsh: bool) -> list[str]:
        if harsh:
            return []
        state = self.on.inspect("keeper")["State"]
        as_before = (state["Status"], state["Pid"]) == ("running", self.pids["keeper"])
        return [] if as_before else [f"keeper is {state}"]

    def _there(self, path: str) -> bool:
        try:
            self.api.get(f"{path}/json")
        except Refused as error:
            if error.status != 404:
                raise
            return False
        return True

    def end(self) -> None:
        """When all is removed nothing is left."""
        self.on.remove_all()
        for image in self.api.get("/images/json?all=1"):
            with suppress(Failed):
                self.api.delete(f"/images/{image['Id']}?force=1")
        self.work.prune_volumes(Random())
        with Client(self.on.containerd.address, NAMESPACE) as client:
            leases = client.call(leases_pb2, "Leases/List", leases_pb2.ListRequest()).leases
            for lease in leases:
                client.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id=lease.id))
            self.work.collect(Random())
            assert client.blobs() == []
        assert os.listdir(self.on.containerd.root / "snapshots") == []
        self.machine.settle()


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.fixture
def walk() -> Iterator[Walk]:
    need("root", "docker", "docker-registry", "busybox", "ctr", "nft")
    with stack((), [VENV_BIN], OurContainerd) as on:
        with RealRegistry(on.engine.folder.parent, on.netns) as registry:
            yield Walk(on, registry)


@pytest.mark.parametrize("first", range(0, ROUNDS, AT_ONCE))
def test_whatever_dies_all_fits_together_afterwards(walk: Walk, first: int) -> None:
    for number in range(first, min(first + AT_ONCE, ROUNDS)):
        seed = f"{SEED}-{number}"
        try:
            print(f"round {seed}: {walk.round(Random(seed))}", flush=True)
        except (AssertionError, Broken, Refused) as error:
            print(f"round {seed} has failed: {error}", flush=True)
            raise AssertionError(f"round {seed}: {error}") from error
    walk.end()
