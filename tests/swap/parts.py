"""One stack of the matrix: who stands at each place of the chain, and how it is told to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.netns import NetNs
from support.peers import VENV_BIN
from support.stack import (
    Containerd,
    Engine,
    OurContainerd,
    OurEngine,
    RealContainerd,
    RealDockerd,
    substitute,
)

OURS_FIRST = (True, False)


@dataclass(frozen=True)
class Stack:
    """Which places below the CLI are taken by parts of ours; the others by real ones."""

    engine: bool
    containerd: bool
    shim: bool
    runtime: bool

    def __str__(self) -> str:
        return "-".join(
            ours if is_ours else real
            for is_ours, ours, real in (
                (self.engine, "cutawayd", "dockerd"),
                (self.containerd, "cutaway_containerd", "containerd"),
                (self.shim, "cutaway_shim", "shim_runc"),
                (self.runtime, "cutaway_runc", "runc"),
            )
        )


STACKS = [Stack(*places) for places in itertools.product(OURS_FIRST, repeat=4)]


@contextmanager
def running(stack: Stack, base: Path, netns: NetNs) -> Iterator[Engine]:
    """Start the stack's two daemons and yield the upper one."""
    with ExitStack() as daemons:
        containerd = daemons.enter_context(_containerd(stack, base, netns))
        yield daemons.enter_context(_engine(stack, base, netns, containerd))


def _containerd(stack: Stack, base: Path, netns: NetNs) -> Containerd:
    """A containerd on whose PATH the name the engine will ask for leads to the stack's shim."""
    prefix: list[Path] = []
    if stack.shim:
        # dockerd 20.10 knows one shim by name; a containerd finds it on PATH, so ours bears that name.
        name = "containerd_shim_cutaway_v1" if stack.engine else "containerd_shim_runc_v2"
        prefix = [substitute(base / "bin", **{name: VENV_BIN / "containerd-shim-cutaway-v1"})]
    kind = OurContainerd if stack.containerd else RealContainerd
    return kind(base, netns, path_prefix=prefix)


def _engine(stack: Stack, base: Path, netns: NetNs, containerd: Containerd) -> Engine:
    runtime = "cutaway" if stack.runtime else "runc"
    if stack.engine:
        shim = "io.containerd.cutaway.v1" if stack.shim else "io.containerd.runc.v2"
        args = ["--default-runtime", runtime, "--default-shim", shim]
        return OurEngine(base, netns, containerd.address, args)
    args = ["--default-runtime", runtime]
    if stack.runtime:
        args = ["--add-runtime", f"cutaway={VENV_BIN / 'cutaway-runc'}", *args]
    return RealDockerd(base, netns, containerd_socket=containerd.address, extra_args=args)
