"""The runtime alone: cold, as its command line, and warm, as our shim calls it. And the service alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.disk import memory
from bench.measure import WARM_UP, Series, alternate
from bench.report import MB, Row
from bench.scenarios import quiet
from bench.service import service
from support.images import busybox_image
from support.netns import Command
from support.peers import PROJECT, VENV_BIN, peer


def runtime_run(base: Path, rounds: int) -> list[Row]:
    with memory(base / "cold") as place:
        return cold(place, rounds)


def cold(base: Path, rounds: int) -> list[Row]:
    bundle = busybox_bundle(base / "bundle")
    commands: dict[str, Callable[[], None]] = {}
    for name, program in (("ours", VENV_BIN / "cutaway-runc"), ("real", peer("runc"))):
        root = str(base / f"{name}-runc")
        command = [
            str(program),
            "--root",
            root,
            "run",
            "--bundle",
            str(bundle),
            f"bench-{os.getpid()}-{name}",
        ]
        commands[name] = lambda command=command: quiet(command)  # type: ignore[misc]
    times = alternate(commands, rounds)
    return [Row("`cutaway-runc run` cold / `runc run`", times["ours"], times["real"], 1.8)]


def cycle(base: Path, rounds: int) -> list[Row]:
    ours, real = call_rounds(base, "cycle", rounds)
    return [
        Row("create + start + delete from the zygote / runc's", ours["all"], real["all"], 0.4),
        *(Row(f"— {name}", ours[name], real[name]) for name in ("create", "start", "delete")),
        Row("— CPU time, the container's own and our fork of a shim included", ours["cpu"], real["cpu"]),
    ]


def private(base: Path, rounds: int) -> list[Row]:
    with caller(base / "memory", "warm", VENV_BIN / "cutaway-runc", "memory") as make_round:
        figures = [make_round() for _ in range(rounds)]
    create = Series([each["runtime"] + each["init"] for each in figures])
    shim = Series([each["shim"] for each in figures])
    return [
        Row("private memory of a warm create, its init included", create, None, 8, MB),
        Row("private memory of a shim whose container is created", shim, None, 4, MB),
    ]


def execs(base: Path, rounds: int) -> list[Row]:
    ours, real = call_rounds(base, "exec", rounds)
    return [
        Row("exec from the zygote / `runc exec --detach --process`", ours["all"], real["all"], 0.4),
        Row("— CPU time", ours["cpu"], real["cpu"]),
    ]


def call_rounds(base: Path, what: str, rounds: int) -> tuple[dict[str, Series], dict[str, Series]]:
    """Rounds of calls, ours and the real runtime's turn by turn; figures by name."""
    with (
        caller(base / f"{what}-ours", "warm", VENV_BIN / "cutaway-runc", what) as ours,
        caller(base / f"{what}-real", "executed", peer("runc"), what) as real,
    ):
        figures: tuple[dict[str, Series], dict[str, Series]] = ({}, {})
        for turn in range(WARM_UP + rounds):
            for make_round, found in zip((ours, real), figures, strict=True):
                values = make_round()
                if turn >= WARM_UP:
                    for name, value in values.items():
                        found.setdefault(name, Series()).times.append(value)
    return figures


@contextlib.contextmanager
def caller(base: Path, module: str, runtime: Path, what: str) -> Iterator[Callable[[], dict[str, float]]]:
    """A process of `bench.callers`; calling what is yielded has it make a round."""
    with memory(base) as place, process_of(place, module, runtime, what) as make_round:
        yield make_round


@contextlib.contextmanager
def process_of(base: Path, module: str, runtime: Path, what: str) -> Iterator[Callable[[], dict[str, float]]]:
    bundle = busybox_bundle(base / "bundle")
    command: Command = [sys.executable, "-m", f"bench.callers.{module}", runtime, base / "root", bundle, what]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    assert process.stdin is not None and process.stdout is not None

    def answer() -> Any:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise SystemExit(f"bench: {module}: ended with {process.wait()}")
        return json.loads(line)

    def make_round() -> dict[str, float]:
        print(what, file=process.stdin, flush=True)
        return dict(answer())

    try:
        assert answer() == "ready"
        yield make_round
    finally:
        process.stdin.close()
        process.wait(60)


def busybox_bundle(bundle: Path) -> Path:
    """A bundle with runc's own default configuration that runs `true`."""
    rootfs = bundle / "rootfs"
    rootfs.mkdir(parents=True)
    (layer,) = busybox_image().layers
    subprocess.run(["tar", "-x", "-C", rootfs], input=layer.tar, check=True)
    subprocess.run([peer("runc"), "spec", "--bundle", bundle], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["true"])
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


CALLS: dict[str, Callable[[Path, int], list[Row]]] = {
    "runtime": runtime_run,
    "cycle": cycle,
    "calls-exec": execs,
    "memory": private,
    "service": service,
}
