"""Logs: json-file on disk, and what `docker logs` makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.engine_stack import Stack
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

FIVE = "for i in 1 2 3 4 5; do echo line $i; done"


def test_both_streams_come_back(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--name", "two", "busybox", "sh", "-c", "echo out; echo err >&2")
    done = engine_stack.engine.docker("logs", "two")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_tail_and_timestamps(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--name", "five", "busybox", "sh", "-c", FIVE)
    assert engine_stack.docker("logs", "--tail", "2", "five") == "line 4\nline 5\n"
    assert engine_stack.docker("logs", "--tail", "0", "five") == ""
    assert engine_stack.docker("logs", "--tail", "99", "five").count("\n") == 5
    stamped = engine_stack.docker("logs", "-t", "--tail", "1", "five")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z line 5\n", stamped)


def test_since_and_until(engine_stack: Stack) -> None:
    script = "echo one; sleep 0.3; echo two"
    engine_stack.docker("run", "--name", "timed", "busybox", "sh", "-c", script)
    stamps = [line.split()[0] for line in engine_stack.docker("logs", "-t", "timed").splitlines()]
    assert engine_stack.docker("logs", "--since", stamps[1], "timed") == "two\n"
    assert engine_stack.docker("logs", "--until", stamps[0], "timed") == "one\n"


def test_following_ends_with_the_container(engine_stack: Stack) -> None:
    script = "echo one; sleep 0.3; echo two; sleep 0.3; echo three"
    engine_stack.docker("run", "-d", "--name", "slow", "busybox", "sh", "-c", script)
    assert engine_stack.docker("logs", "-f", "slow") == "one\ntwo\nthree\n"
    assert engine_stack.docker("logs", "-f", "slow") == "one\ntwo\nthree\n"


def test_the_file_has_docker_s_format(engine_stack: Stack) -> None:
    script = "printf 'a\\nüb\\377er\\nno newline'"
    engine_stack.docker("run", "-d", "--name", "form", "busybox", "sh", "-c", script)
    engine_stack.docker("wait", "form")
    path = Path(engine_stack.inspect("form")["LogPath"])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["log"] for entry in entries] == ["a\n", "üb\N{REPLACEMENT CHARACTER}er\n", "no newline"]
    assert {entry["stream"] for entry in entries} == {"stdout"}
    assert set(entries[0]) == {"log", "stream", "time"}


def test_long_lines_are_cut_at_16_kib(engine_stack: Stack) -> None:
    script = "dd if=/dev/zero bs=1000 count=40 2>/dev/null | tr '\\0' y; echo"
    engine_stack.docker("run", "--name", "long", "busybox", "sh", "-c", script)
    path = Path(engine_stack.inspect("long")["LogPath"])
    pieces = [json.loads(line)["log"] for line in path.read_text().splitlines()]
    assert [len(piece) for piece in pieces] == [16384, 16384, 7233]
    assert engine_stack.docker("logs", "long") == "y" * 40000 + "\n"


def test_rotation_keeps_the_newest(engine_stack: Stack) -> None:
    options = ("--log-opt", "max-size=2k", "--log-opt", "max-file=2")
    script = "i=0; while [ $i -lt 100 ]; do echo number $i; i=$((i+1)); done"
    engine_stack.docker("run", "--name", "turn", *options, "busybox", "sh", "-c", script)
    path = Path(engine_stack.inspect("turn")["LogPath"])
    files = sorted(file.name.removeprefix(path.name) for file in path.parent.glob("*-json.log*"))
    assert files == ["", ".1"]
    kept = engine_stack.docker("logs", "turn").splitlines()
    assert kept[-1] == "number 99"
    numbers = [int(line.split()[1]) for line in kept]
    assert numbers == list(range(numbers[0], 100))


def test_following_goes_on_over_a_rotation(engine_stack: Stack) -> None:
    options = ("--log-opt", "max-size=1k", "--log-opt", "max-file=3")
    script = "i=0; while [ $i -lt 40 ]; do echo number $i; i=$((i+1)); sleep 0.01; done"
    engine_stack.docker("run", "-d", "--name", "turn", *options, "busybox", "sh", "-c", script)
    lines = engine_stack.docker("logs", "-f", "turn").splitlines()
    assert lines == [f"number {i}" for i in range(40)]


def test_a_stopped_container_s_next_run_adds_to_its_log(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--name", "twice", "busybox", "echo", "run")
    engine_stack.docker("start", "-a", "twice")
    wait_until(lambda: engine_stack.state("twice") == "exited", "the second run is over")
    assert engine_stack.docker("logs", "twice") == "run\nrun\n"


def test_without_a_log_there_is_nothing_to_read(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "x")
    assert "does not support reading" in engine_stack.fails("logs", "mute")[1]


def test_bad_requests(engine_stack: Stack) -> None:
    engine_stack.docker("create", "--name", "idle", "busybox")
    ask = engine_stack.ask
    choose = "Bad parameters: you must choose at least one stream"
    assert ask("GET", "/containers/idle/logs") == (400, {"message": choose})
    status, answer = ask("GET", "/containers/idle/logs?stdout=1&since=yesterday")
    assert status == 400
    assert "since" in answer["message"]
    assert ask("GET", "/containers/none/logs?stdout=1") == (404, {"message": "No such container: none"})
