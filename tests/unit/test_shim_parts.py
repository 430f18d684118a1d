"""The shim's parts that need neither root nor a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from cutaway import errors
from cutaway.linux import mounts as linux
from cutaway.pb.runc_options_pb2 import Options as WireOptions
from cutaway.shim import address, arguments, container, options, states
from cutaway.shim.launch import Launcher, find_executable
from cutaway.shim.loop import Event, Lock, Loop, wait_for
from cutaway.shim.mounts import Options as MountOptions
from cutaway.shim.pump import Pump
from cutaway.shim.reaper import Exit, Reaper
from cutaway.shim.runtime import kill_error, last_error
from support.process import children, wait_until

# sha256sum of /run/containerd/containerd.sock/default/abc
SOCKET_NAME = "8cb244a719603fe00870d5ce1d8e1f1db43a654cb993d107df1f1ae23ddffa59"


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def reaper(loop: Loop) -> Iterator[Reaper]:
    yield Reaper(loop)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def test_flags_are_gos() -> None:
    words = ["-namespace", "n", "--id=x=y", "-debug", "-address=/s", "start", "-v"]
    found = arguments.parse(words)
    assert (found["namespace"], found["id"], found["address"], found.action) == ("n", "x=y", "/s", "start")
    assert found.debug
    assert found.switches == {"debug"}, "flags end at the action"
    assert not arguments.parse(["-debug=false"]).debug
    for wrong in (["-id"], ["-debug=perhaps"], ["-x"]):
        with pytest.raises(errors.InvalidArgument):
            arguments.parse(wrong)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_words_are_arguments_or_refused(words: list[str]) -> None:
    try:
        arguments.parse(words)
    except errors.InvalidArgument as error:
        assert "\n" not in error.message or any("\n" in word for word in words)


def test_the_socket_is_where_containerds_shim_has_it() -> None:
    path = address.path_for("/run/containerd/containerd.sock", "default", "abc")
    assert path == f"/run/containerd/s/{SOCKET_NAME}"
    assert path == address.path_for("/run/containerd/./containerd.sock", "default", "abc")


@pytest.mark.parametrize(
    ("config", "group"),
    [
        ("{}", "c1"),
        ("not json io.containerd.runc.v2.group", "c1"),
        ('{"annotations": {"io.containerd.runc.v2.group": "pod"}}', "pod"),
        ('{"annotations": {"io.kubernetes.cri.sandbox-id": "sand"}}', "sand"),
        ('{"annotations": {"io.containerd.runc.v2.group": 7}}', "c1"),
        ('{"annotations": ["io.containerd.runc.v2.group"]}', "c1"),
        ('["io.containerd.runc.v2.group"]', "c1"),
    ],
)
def test_the_group_of_a_bundle(tmp_path: Path, config: str, group: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert address.group_of(os.fspath(tmp_path), "c1") == group


def test_options_from_the_wire_to_the_bundle_and_back(tmp_path: Path) -> None:
    wire = WireOptions(binary_name="crun", root="/r", systemd_cgroup=True, io_uid=7)
    given = Any(type_url="containerd.runc.v1.Options", value=wire.SerializeToString())
    found = options.from_any(given)
    options.write(os.fspath(tmp_path), found, "crun")
    assert options.read(os.fspath(tmp_path)) == (found, "crun")
    assert json.loads((tmp_path / "options.json").read_text()) == {
        "binary_name": "crun", "root": "/r", "systemd_cgroup": True, "io_uid": 7
    }  # fmt: skip
    assert (found.root, found.io_uid, found.no_pivot_root) == ("/r", 7, None)


def test_options_that_are_none() -> None:
    none = options.Options()
    assert options.from_any(Any()) == none
    assert options.from_any(Any(type_url="containerd.runc.v1.Options")) == none
    assert options.from_any(Any(type_url="another.Type", value=b"\xff")) == none
    with pytest.raises(errors.InvalidArgument):
        options.from_any(Any(type_url="containerd.runc.v1.Options", value=b"\xff"))


def test_every_state_says_no_in_one_line() -> None:
    everything = (states.CREATED, states.RUNNING, states.PAUSED, states.STOPPED, states.DELETED)
    for state in everything:
        for verb in ("start", "delete", "pause", "resume", "update", "exec", "kill", "resize"):
            try:
                state.check(verb)
            except errors.CutawayError as error:
                assert "\n" not in error.message
                assert verb in error.message
    states.STOPPED.check(states.DELETE)
    states.CREATED.check(states.DELETE)
    with pytest.raises(errors.NotFound):
        states.DELETED.check(states.KILL)


def test_mount_options_become_flags() -> None:
    found = MountOptions(["rbind", "ro", "nosuid", "suid", "rprivate", "size=64k", "index=off"])
    assert found.flags == linux.MS_BIND | linux.MS_REC | linux.MS_RDONLY
    assert found.propagation == linux.MS_PRIVATE | linux.MS_REC
    assert found.data == ["size=64k", "index=off"]
    with pytest.raises(errors.InvalidArgument, match="loop"):
        MountOptions(["loop"])


def test_the_last_error_of_this_call_is_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    old = '{"level":"error","msg":"of an earlier call"}\n'
    log.write_text(old + 'noise\n{"level":"warning","msg":"w"}\n{"level":"error","msg":" one "}\n[]\n')
    assert last_error(os.fspath(log)) == "one"
    assert last_error(os.fspath(log), len(log.read_bytes())) == ""
    assert last_error(os.fspath(log), len(old) - 1) == "one"


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("runc did ...: exit status 1: container not running", errors.NotFound, "process already finished"),
        ("[Errno 3] No such process", errors.NotFound, "process already finished"),
        ("container does not exist", errors.NotFound, "no such container"),
        ("exit status 2: boom", errors.Unknown, "unknown error after kill: exit status 2: boom"),
    ],
)
def test_what_a_failed_kill_means(said: str, kind: type[errors.CutawayError], words: str) -> None:
    error = kill_error(said)
    assert (type(error), error.message) == (kind, words)


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ('{"linux": {"namespaces": [{"type": "pid"}]}}', True),
        ('{"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}', False),
        ('{"linux": {"namespaces": [{"type": "mount"}]}}', False),
        ('{"linux": null}', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_whether_a_container_has_pids_of_its_own(tmp_path: Path, config: str, own: bool) -> None:
    (tmp_path / "config.json").write_text(config)
    assert container.has_own_pids(os.fspath(tmp_path / "config.json")) is own


@pytest.mark.root
def test_the_first_of_a_pid_namespace_is_known_by_its_number(tmp_path: Path) -> None:
    assert container.leads_pids(0) is None
    assert container.leads_pids(1 << 30) is None
    assert container.leads_pids(os.getpid()) is False
    ready = tmp_path / "ready"
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", f"touch {ready}; sleep 60"]
    with subprocess.Popen(command) as outer:
        wait_until(ready.exists, "the first process of a new namespace")
        (first,) = children()[outer.pid]
        assert container.leads_pids(first) is True
        outer.kill()


def test_programs_are_found_as_go_finds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"/nonexistent:{tmp_path}")
    with pytest.raises(errors.NotFound, match=r'exec: "program": executable file not found in \$PATH'):
        find_executable("program")  # not executable
    program.chmod(0o755)
    assert find_executable("program") == os.fspath(program)
    with pytest.raises(errors.NotFound, match="no such file or directory"):
        find_executable(os.fspath(tmp_path / "folder"))


def test_a_lock_is_handed_on_in_order(loop: Loop) -> None:
    lock, gate, order = Lock(), Event(), list[int]()

    async def hold(number: int) -> None:
        async with lock:
            await gate
            order.append(number)
            if number == 3:
                loop.stop()

    for number in range(4):
        loop.spawn(hold(number))
    assert order == []
    gate.set()
    loop.run()
    assert order == [0, 1, 2, 3]
    assert not lock.held


def test_waiting_has_an_end(loop: Loop) -> None:
    found: list[bool] = []

    async def wait() -> None:
        never, soon = Event(), Event()
        found.append(await wait_for(loop, never, 0.001))
        loop.later(0.001, soon.set)
        found.append(await wait_for(loop, soon, 10))
        loop.stop()

    loop.spawn(wait())
    loop.run()
    assert found == [False, True]


def test_a_mistake_in_one_task_does_not_end_the_loop(loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    async def wrong() -> None:
        raise ZeroDivisionError("of ours")

    task = loop.spawn(wrong())
    assert task.done.is_set
    loop.soon(lambda: os.close(-1))
    loop.soon(loop.stop)
    loop.run()
    logged = capfd.readouterr().err
    assert "ZeroDivisionError: of ours" in logged
    assert "Bad file descriptor" in logged
    assert all(line.startswith('time="') for line in logged.splitlines())


def test_an_exit_before_anybody_expects_it_is_kept_only_while_asked(loop: Loop, reaper: Reaper) -> None:
    def child(status: int) -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(status)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        reaper.reap()
        return pid

    found: list[Exit] = []
    reaper.keep()
    pid = child(3)
    reaper.expect(pid, found.append)
    assert [(exit.pid, exit.status) for exit in found] == [(pid, 3)]
    forgotten = child(4)
    reaper.release()
    reaper.expect(forgotten, found.append)
    assert len(found) == 1


def test_programs_run_and_are_heard(loop: Loop, reaper: Reaper) -> None:
    launcher = Launcher(reaper)
    results: list[tuple[int, str]] = []

    async def run() -> None:
        for script in ("cat; echo err >&2; exit 3", "kill -9 $$", "ls /proc/self/fd | wc -l"):
            result = await launcher.run(["sh", "-c", script], stdin=b"in ")
            results.append((result.status, result.output))
        quiet = await launcher.run(["sh", "-c", "echo out; echo err >&2"], merge=False)
        results.append((quiet.status, quiet.output))
        loop.stop()

    loop.spawn(run())
    loop.run()
    assert results == [(3, "in err"), (137, ""), (0, "4"), (0, "out")]


def pump(loop: Loop) -> tuple[int, Pump, int]:
    """A pump between two pipes: the writing end, the pump, the reading end."""
    source, write = os.pipe()
    read, sink = os.pipe()
    os.set_blocking(source, False)
    os.set_blocking(sink, False)
    return write, Pump(loop, source, sink), read


def test_a_pump_waits_for_its_reader_and_loses_nothing(loop: Loop) -> None:
    write, running, read = pump(loop)
    data = os.urandom(150_000)
    sent, received = 0, b""
    os.set_blocking(write, False)
    os.set_blocking(read, False)

    def feed() -> None:
        nonlocal sent, received
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += os.write(write, data[sent : sent + 70_000])
            if sent == len(data):
                os.close(write)
        with suppress(BlockingIOError):
            received += os.read(read, 30_000)
        if len(received) == len(data) and running.ended.is_set:
            loop.stop()
        else:
            loop.later(0, feed)

    loop.soon(feed)
    loop.run()
    assert received == data


def test_a_pump_ends_when_nobody_takes_what_it_has(loop: Loop) -> None:
    write, running, read = pump(loop)
    os.close(read)
    os.write(write, b"to nobody")
    running.ended.call(loop.stop)
    loop.run()
    with pytest.raises(BrokenPipeError):
        os.write(write, b"more")
