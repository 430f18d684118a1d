"""What a runtime call costs that is forked from a process with everything in memory, without timing it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.peers]

# Makes each call in a fork, as a shim does, and tells what had to be imported for it.
CALLS = """
import json, os, sys
from cutaway.runc.main import main
from cutaway.shim import zygote

root, bundle, name, pid_file = sys.argv[1:]
zygote.preload()
loaded = set(sys.modules)
for words in (
    ("create", "--bundle", bundle, "--pid-file", pid_file, name),
    ("start", name),
    ("exec", "--detach", name, "true"),
    ("kill", name, "KILL"),
    ("state", name),
    ("delete", "--force", name),
):
    pid = os.fork()
    if pid == 0:
        code = main(["--root", root, "--log", f"{root}/log", "--log-format", "json", *words])
        imported = sorted(set(sys.modules) - loaded)
        told = json.dumps({"call": words[0], "pid": os.getpid(), "code": code, "imported": imported})
        os.write(2, told.encode() + b"\\n")
        os._exit(code)
    os.waitpid(pid, 0)
"""

# A sixth more than they make on a hybrid machine with nine hierarchies, which asks for the most.
MOST_OF_CREATE = 185
MOST_OF_INIT = 290


def calls(runtime: Runtime, bundle: Bundle, name: str, tracer: Sequence[str] = ()) -> list[dict[str, Any]]:
    bundle.process["args"] = ["sleep", "1000"]
    pid_file = bundle.path / "pid"
    words = (str(runtime.root), os.fspath(bundle), name, str(pid_file))
    ended = subprocess.run(
        [*tracer, sys.executable, "-c", CALLS, *words],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    lines = ended.stderr.decode().splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"call"')]
    assert [each["code"] for each in found] == [0] * 6, lines
    return found


def test_nothing_is_imported(ours: Runtime, bundle: Bundle, name: str) -> None:
    """An import takes longer than all else that a start does, and init cannot make any."""
    imported = {each["call"]: each["imported"] for each in calls(ours, bundle, name)}
    assert imported == {"create": [], "start": [], "exec": [], "kill": [], "state": [], "delete": []}


def test_system_calls(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    """The kernel is asked once for what it has said already."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    found = calls(ours, bundle, name, (strace, "-qq", "-ff", "-o", str(place / "trace")))
    create = next(each for each in found if each["call"] == "create")
    init = (bundle.path / "pid").read_text()
    assert 0 < made(place / f"trace.{create['pid']}") <= MOST_OF_CREATE
    assert 0 < made(place / f"trace.{init}") <= MOST_OF_INIT


def made(trace: Path) -> int:
    """How many system calls a process made until it executed a program."""
    lines = trace.read_text().splitlines()
    ends = [at for at, line in enumerate(lines) if line.startswith("execve")]
    return ends[0] if ends else len(lines)
