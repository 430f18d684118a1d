"""Fault points: nothing when nothing is asked for, death by SIGKILL at the place that is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support import faults

PASS_THREE = (
    "from cutaway.faults import point\n"
    "for name in ('a.one', 'a.two', 'a.one'): point(name); print(name, flush=True)"
)


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PASS_THREE]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [("a.one", ""), ("a.one:1", ""), ("a.two", "a.one\n"), ("a.one:2", "a.one\na.two\n")],
)
def test_a_process_dies_at_its_point(asked: str, said: str) -> None:
    done = run(CUTAWAY_FAULT=asked)
    assert (done.returncode, done.stdout, done.stderr) == (-9, said, "")


@pytest.mark.parametrize("asked", ["", "a.three", "a.one:3"])
def test_a_process_that_does_not_pass_it_lives(asked: str) -> None:
    assert run(CUTAWAY_FAULT=asked).returncode == 0


def test_what_is_passed_is_noted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(CUTAWAY_FAULT_LOG=str(log), CUTAWAY_FAULT="a.one:2").returncode == -9
    assert faults.passed(log) == {"a.one": 2, "a.two": 1}


def test_nothing_is_asked_for_as_a_rule() -> None:
    code = "from cutaway import faults; print(faults.point is faults._nothing)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_name_is_one_place_and_says_whose_process_it_is() -> None:
    assert [name for name, count in Counter(faults.names()).items() if count > 1] == []
    for name, path in faults.places():
        part = path.relative_to(faults.SOURCE).parts[0]
        assert name.split(".")[0] in (part, path.stem), f"{path} has {name}"
