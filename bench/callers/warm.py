"""The caller that a zygote forks: our shim's own way to its runtime, without the shim's socket.

Every round of `cycle` has a process of its own, forked from the zygote as a shim is; the calls are the
shim's (`cutaway.shim.runtime`). What it does before the first call, a shim does before it is asked.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from bench.callers.rounds import Figures, answer, measured, private_bytes, serve, sleeping, true_process
from cutaway.linux import processes
from cutaway.shim import zygote
from cutaway.shim.launch import Launcher
from cutaway.shim.loop import Event, Loop
from cutaway.shim.options import Options
from cutaway.shim.reaper import Reaper
from cutaway.shim.runtime import Runtime, pid_file, process_file
from cutaway.shim.stdio import NullIo

NAMESPACE = "bench"
ROUND_TRIP = 0.003  # seconds: what a container service takes from one answer of a shim to its next request


class Shim:
    """As much of a shim as calls a runtime."""

    def __init__(self, runtime: str, root: str, bundle: Path) -> None:
        self.loop = Loop()
        self.reaper = Reaper(self.loop)
        self.bundle = bundle
        self._binary = runtime
        self._launcher = Launcher(self.reaper)
        self.runtime = Runtime(self._launcher, runtime, Options(root=root), NAMESPACE, str(bundle))

    def expect_create(self, name: str) -> None:
        """As a shim does when it has been started."""
        self._launcher.prepare(self._binary, self.runtime.expected(name, pid_file(str(self.bundle))))
        time.sleep(ROUND_TRIP)

    def expect_exec(self, name: str, process: bytes) -> tuple[str, str]:
        """As a shim does when an exec has been described to it; the files of the process."""
        paths = process_file(str(self.bundle), "exec"), pid_file(str(self.bundle), "exec")
        Path(paths[0]).write_bytes(process)
        self._launcher.prepare(self._binary, self.runtime.expected_exec(name, *paths))
        time.sleep(ROUND_TRIP)
        return paths

    def run(self, coroutine: Coroutine[Event, None, None]) -> None:
        async def until_done() -> None:
            try:
                await coroutine
            finally:
                self.loop.stop()

        self.loop.spawn(until_done())
        self.loop.run()

    async def create(self, name: str) -> tuple[Event, int]:
        """An event for the end of the init, and its pid."""
        self.reaper.keep()
        io, ended = NullIo(), Event()
        pid = await self.runtime.create(name, pid_file(str(self.bundle)), io)
        io.started()
        self.reaper.expect(pid, lambda _: ended.set())
        self.reaper.release()
        return ended, pid


def cycle(shim: Shim) -> Figures:
    figures: dict[str, float] = {}

    async def calls() -> None:
        name = f"bench-{os.getpid()}"
        shim.expect_create(name)
        before = time.perf_counter()
        ended, _ = await shim.create(name)
        created = time.perf_counter()
        resumed = time.perf_counter()
        await shim.runtime.start(name)
        started = time.perf_counter()
        await ended
        gone = time.perf_counter()
        await shim.runtime.delete(name)
        deleted = time.perf_counter()
        figures["create"] = created - before
        figures["start"] = started - resumed
        figures["delete"] = deleted - gone
        figures["all"] = sum(figures[name] for name in ("create", "start", "delete"))

    shim.run(calls())
    return figures


def memory(shim: Shim) -> Figures:
    """Private memory when a create is nearly through: of the runtime's process, its init, and the shim."""
    figures: dict[str, float] = {}

    async def calls() -> None:
        name = f"bench-{os.getpid()}"
        shim.expect_create(name)
        _, init = await shim.create(name)
        figures["runtime"] = private_bytes(shim.bundle / "smaps")
        figures["init"] = private_bytes(f"/proc/{init}/smaps_rollup")
        figures["shim"] = private_bytes("/proc/self/smaps_rollup")
        await shim.runtime.force_delete(name)

    shim.run(calls())
    return figures


async def serve_exec(shim: Shim, process: bytes) -> None:
    """Start processes in a container that sleeps, one for each line read."""
    name = f"bench-{os.getpid()}"
    await shim.create(name)
    await shim.runtime.start(name)
    try:
        answer("ready")
        for _ in sys.stdin:
            answer(await exec_once(shim, name, process))
    finally:
        await shim.runtime.force_delete(name)


async def exec_once(shim: Shim, name: str, process: bytes) -> Figures:
    begun = cpu_seconds()
    paths = shim.expect_exec(name, process)
    before = time.perf_counter()
    shim.reaper.keep()
    io, ended = NullIo(), Event()
    pid = await shim.runtime.exec(name, *paths, io)
    taken = time.perf_counter() - before
    io.started()
    shim.reaper.expect(pid, lambda _: ended.set())
    shim.reaper.release()
    await ended
    return {"all": taken, "cpu": cpu_seconds() - begun}


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def forked(round: Callable[[Shim], Figures], arguments: tuple[str, str, Path]) -> Figures:
    """A round in a fork of this process, which is what the zygote is to a shim."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        gc.freeze()
        processes.set_subreaper()
        figures = round(Shim(*arguments))
        os.write(writer, json.dumps(figures).encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 65536)
    os.close(reader)
    _, status, used = os.wait4(pid, 0)
    if status or not text:
        raise SystemExit(f"a round has failed: {status}")
    return {**json.loads(text), "cpu": used.ru_utime + used.ru_stime}


def main() -> None:
    runtime, root, bundle, what = sys.argv[1:]
    zygote.preload()
    gc.collect()
    gc.freeze()
    if what == "cycle":
        serve(lambda: forked(cycle, (runtime, root, Path(bundle))))
        return
    if what == "memory":
        of_a_create = measured(Path(bundle))
        serve(lambda: forked(memory, (runtime, root, of_a_create)))
        return
    process = true_process(Path(bundle))
    pid = os.fork()
    if pid == 0:
        gc.freeze()
        processes.set_subreaper()
        shim = Shim(runtime, root, sleeping(Path(bundle)))
        shim.run(serve_exec(shim, process))
        os._exit(0)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
