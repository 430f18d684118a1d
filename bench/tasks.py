"""A containerd client's view: one task by gRPC, and what the daemon and a shim take in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.measure import Series, alternate
from bench.report import MB, Row
from containerd.task_rig import Rig, rig, shims
from support.netns import NetNs
from support.stack import Containerd, OurContainerd, RealContainerd

SHIMS = 10  # that run while memory is read


def task_life(base: Path, rounds: int) -> list[Row]:
    """Ours from the daemon down, beside containerd with its shim and runc."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(daemon(base / "to", OurContainerd, "io.containerd.cutaway.v1"))
        real = stack.enter_context(daemon(base / "tr", RealContainerd, "io.containerd.runc.v2"))
        for on in (ours, real):
            on.container("life", "true")
        times = alternate({"ours": life(ours), "real": life(real)}, rounds)
        memory = {on: measure(on, rounds) for on in (ours, real)}
    what = "one task by gRPC (create, start, wait, delete): ours / containerd, its shim, runc"
    rows = [Row(what, times["ours"], times["real"], 0.35)]
    for index, (name, goal) in enumerate(
        (("the daemon (PSS), 10 tasks", None), ("a shim (PSS)", None), ("a shim, private", 4.0))
    ):
        if goal is None:
            rows.append(Row(name, memory[ours][index], memory[real][index], unit=MB))
        else:
            rows.append(Row(name, memory[ours][index], None, goal, unit=MB))
    return rows


@contextlib.contextmanager
def daemon(base: Path, kind: type[Containerd], runtime: str) -> Iterator[Rig]:
    base.mkdir()
    with NetNs() as netns, kind(base, netns) as running, rig(running, base, runtime) as made:
        yield made


def life(on: Rig) -> Callable[[], None]:
    def once() -> None:
        on.tasks("Create", container_id="life")
        on.tasks("Start", container_id="life")
        on.tasks("Wait", container_id="life")
        on.tasks("Delete", container_id="life")

    return once


def measure(on: Rig, rounds: int) -> tuple[Series, Series, Series]:
    """PSS of the daemon, PSS and private memory of each of its shims, with some that run."""
    names = [f"idle-{number}" for number in range(SHIMS)]
    for name in names:
        on.running(name)
    pids = [pid for name in names for pid in shims(on, name)]
    told = [memory_of(on.daemon.pid) for _ in range(max(2, min(rounds, 5)))]
    found = [memory_of(pid) for pid in pids]
    for name in names:
        on.end(name)
    return (
        Series([pss for pss, _ in told]),
        Series([pss for pss, _ in found]),
        Series([private for _, private in found]),
    )


def memory_of(pid: int) -> tuple[float, float]:
    """Proportional and private bytes of a process (proc_pid_smaps(5))."""
    values: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount, _ = line.split()
        values[name.rstrip(":")] = int(amount) * 1024
    return values["Pss"], values["Private_Clean"] + values["Private_Dirty"]
