"""Pulling big images over loopback: our engine and service, dockerd, and `ctr` with containerd, in turn."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import big_image
from bench.disk import disk
from bench.measure import Series
from bench.report import MB, Row
from bench.scenarios import Bench, client, quiet, stacks
from bench.tasks import memory_of
from support.images import Image
from support.peers import peer
from support.stack import Daemon, RealRegistry

REPOSITORY = "127.0.0.1:5000/bench/pull"
CORES = (1.0, "cores")

Action = Callable[[], None]


@dataclass
class Puller:
    """Something that pulls: how it is told to, how it forgets, and the daemons that do the work."""

    daemons: tuple[Daemon, ...]
    pull: Callable[[str], Action]
    remove: Callable[[str], Action]
    times: dict[str, Series] = field(default_factory=dict)
    cores: dict[str, Series] = field(default_factory=dict)
    memory: dict[str, Series] = field(default_factory=dict)

    def measure(self, tag: str, keep: bool) -> None:
        """Pull with cold caches."""
        for daemon in self.daemons:
            Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # proc(5): begin a new peak
        drop_caches()
        before, start = self._processor(), time.perf_counter()
        self.pull(f"{REPOSITORY}:{tag}")()
        taken = time.perf_counter() - start
        used = self._processor() - before
        if keep:
            self.times.setdefault(tag, Series()).times.append(taken)
            self.cores.setdefault(tag, Series()).times.append(used / taken)
            self.memory.setdefault(tag, Series()).times.append(sum(map(peak_of, self.daemons)))

    def forget(self, *tags: str) -> None:
        for tag in tags:
            self.remove(f"{REPOSITORY}:{tag}")()

    def _processor(self) -> float:
        return sum(map(processor_of, self.daemons))


def pullers(bench: Bench) -> Mapping[str, Puller]:
    def docker(engine: object, *words: str) -> Callable[[str], Action]:
        chosen = bench.ours if engine is bench.ours else bench.real
        return lambda reference: client(chosen, peer("docker"), *words, reference)

    def ctr(*words: str) -> Callable[[str], Action]:
        below = bench.real_below
        command = ["nsenter", f"--net={below.netns.path}", str(peer("ctr")), "--address", str(below.address)]
        return lambda reference: lambda: quiet([*command, "--namespace", "bench", *words, reference])

    return {
        "ours": Puller((bench.ours, bench.ours_below), docker(bench.ours, "pull"), docker(bench.ours, "rmi")),
        "dockerd": Puller((bench.real,), docker(bench.real, "pull"), docker(bench.real, "rmi")),
        "ctr": Puller(
            (bench.real_below,), ctr("images", "pull", "--plain-http"), ctr("images", "rm", "--sync")
        ),
    }


def pulls(base: Path, rounds: int) -> list[Row]:
    """A fifth of the rounds: a pull takes seconds."""
    ten, changed = big_image.in_ten_layers()
    images = {"one": big_image.in_one_layer(), "ten": ten, "changed": changed}
    with disk(base) as place, stacks(place) as bench:
        for registry in bench.registries:
            push(registry, images)
        found = pullers(bench)
        for turn in range(1 + max(2, rounds // 5)):
            for puller in found.values():
                puller.measure("one", turn > 0)
                puller.forget("one")
            for puller in found.values():
                puller.measure("ten", turn > 0)
                puller.measure("changed", turn > 0)
                puller.forget("ten", "changed")
    return [*rows(found, "one", "one layer"), *rows(found, "ten", "ten layers"), second(found["ours"])]


def rows(found: Mapping[str, Puller], tag: str, what: str) -> list[Row]:
    """Ours beside the faster of the others."""
    ours = found["ours"]
    name, other = sorted(("dockerd", "ctr"), key=lambda name: found[name].times[tag].median)
    slower = found[other].times[tag].median
    real = f"{name} ({other}: {slower * 1e3:.0f} ms)"
    size = f"{big_image.SIZE // 1_000_000} MB, {big_image.FILES} files"
    return [
        Row(f"pull of {what} ({size}): our engine / {real}", ours.times[tag], found[name].times[tag], 0.6),
        Row("— cores in use", ours.cores[tag], found[name].cores[tag], unit=CORES),
        Row("— peak memory, our engine and service together", ours.memory[tag], None, 200, MB),
    ]


def second(ours: Puller) -> Row:
    what = "pull with nine of ten layers there / of all ten, both our engine"
    return Row(what, ours.times["changed"], ours.times["ten"], 0.2)


def push(registry: RealRegistry, images: Mapping[str, Image]) -> None:
    for tag, image in images.items():
        registry.push(image, "bench/pull", tag)


def drop_caches() -> None:
    """What the disk holds is read from it again, and nobody waits for what another has written."""
    os.sync()
    with contextlib.suppress(OSError):  # in a container that may not; then all pull from a warm cache
        Path("/proc/sys/vm/drop_caches").write_text("3")


def peak_of(daemon: Daemon) -> float:
    """Bytes of memory that a daemon had at most, and its children have: these share most of theirs (PSS)."""
    _, *children = family(daemon.pid)
    return _status(daemon.pid, "VmHWM") * 1024.0 + sum(memory_of(pid)[0] for pid in children)


def processor_of(daemon: Daemon) -> float:
    """Seconds of processor time that a daemon and its children have used."""
    total = 0.0
    for pid in family(daemon.pid):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def family(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    children = [int(one) for one in found.stdout.split()]
    return [pid, *(one for child in children for one in family(child))]


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0
