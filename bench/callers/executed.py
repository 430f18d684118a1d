"""The caller that executes a runtime for every call, with as little around it as a small shim has."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from bench.callers.rounds import Figures, serve, sleeping, true_process
from cutaway.linux import processes


class Caller:
    """A subreaper with one bundle."""

    def __init__(self, runtime: str, root: str, bundle: Path) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._global = [runtime, "--root", root, "--log", f"{bundle}/log.json", "--log-format", "json"]
        null = os.open("/dev/null", os.O_RDWR)
        self._actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in range(3)]
        self._number = 0
        self._sleeper = ""

    def cycle(self) -> Figures:
        """create, start, the end of the program, delete."""
        before = cpu_seconds()
        name, pid_file = self._name(), f"{self._bundle}/init.pid"
        times = [time.perf_counter()]
        self._call("create", "--bundle", str(self._bundle), "--pid-file", pid_file, name)
        times.append(time.perf_counter())
        self._call("start", name)
        times.append(time.perf_counter())
        os.waitpid(int(Path(pid_file).read_text()), 0)
        ended = time.perf_counter()
        self._call("delete", name)
        deleted = time.perf_counter() - ended
        create, start = times[1] - times[0], times[2] - times[1]
        return {
            "create": create,
            "start": start,
            "delete": deleted,
            "all": create + start + deleted,
            "cpu": cpu_seconds() - before,
        }

    def exec(self) -> Figures:
        """exec --detach in a container that sleeps, and the end of what was executed."""
        self._sleeper = self._sleeper or self._sleep()
        before = cpu_seconds()
        pid_file = f"{self._bundle}/exec.pid"
        start = time.perf_counter()
        path = f"/tmp/runc-process{os.urandom(6).hex()}"
        Path(path).write_bytes(true_process(self._bundle))
        self._call("exec", "--process", path, "--detach", "--pid-file", pid_file, self._sleeper)
        os.unlink(path)
        taken = time.perf_counter() - start
        os.waitpid(int(Path(pid_file).read_text()), 0)
        return {"all": taken, "cpu": cpu_seconds() - before}

    def close(self) -> None:
        if self._sleeper:
            self._call("delete", "--force", self._sleeper)

    def _sleep(self) -> str:
        name, bundle = self._name(), sleeping(self._bundle)
        self._call("create", "--bundle", str(bundle), name)
        self._call("start", name)
        return name

    def _name(self) -> str:
        self._number += 1
        return f"bench-{os.getpid()}-{self._number}"

    def _call(self, *arguments: str) -> None:
        argv = [*self._global, *arguments]
        pid = os.posix_spawn(self._runtime, argv, os.environ, file_actions=self._actions)
        status = os.waitpid(pid, 0)[1]
        if status:
            raise SystemExit(f"{argv}: {status}: {self._log()}")

    def _log(self) -> str:
        lines = (self._bundle / "log.json").read_text().splitlines()
        return str(json.loads(lines[-1])["msg"]) if lines else ""


def cpu_seconds() -> float:
    """What all children that have been waited for have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    runtime, root, bundle, what = sys.argv[1:]
    processes.set_subreaper()
    caller = Caller(runtime, root, Path(bundle))
    try:
        serve({"cycle": caller.cycle, "exec": caller.exec}[what])
    finally:
        caller.close()


if __name__ == "__main__":
    main()
