"""Streams: FIFOs, files, loggers, terminals."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shim.bundles import Fifo
from shim.driver import ShimHost, TaskError
from support.process import has_ended, wait_until

pytestmark = pytest.mark.root


def test_stdin_ends_when_the_caller_has_closed_it_and_says_so(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["cat"])
    bundle.fifo("stdin")
    shim = host.start(bundle)
    shim.create()
    shim.task("Start")
    with open(bundle.path / "stdin", "wb", buffering=0) as stdin:
        stdin.write(b"one ")
        assert bundle.streams["stdout"].read_until(b"one ")
    with open(bundle.path / "stdin", "wb", buffering=0) as stdin:  # a caller may come back
        stdin.write(b"two")
    shim.task("CloseIO", stdin=True)
    assert shim.task("Wait").exit_status == 0
    assert bundle.streams["stdout"].read_all() == b"two"
    shim.shutdown()


def test_much_data_goes_through_both_ways(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sh", "-c", "wc -c >&2; head -c 3000000 /dev/zero"])
    bundle.fifo("stdin")
    shim = host.start(bundle)
    shim.create()
    shim.task("Start")
    with open(bundle.path / "stdin", "wb") as stdin:
        stdin.write(bytes(2_000_000))
    shim.task("CloseIO", stdin=True)
    assert len(bundle.streams["stdout"].read_all()) == 3_000_000
    assert bundle.streams["stderr"].read_all().strip() == b"2000000"
    assert shim.task("Wait").exit_status == 0
    shim.shutdown()


def test_a_reader_may_go_and_come_back(host: ShimHost) -> None:
    """A daemon's restart: the container gets no SIGPIPE, and nothing that is written meanwhile is lost."""
    script = "echo one; read x; echo two; echo three"
    bundle = host.bundle("c1", ["sh", "-c", script])
    bundle.fifo("stdin")
    shim = host.start(bundle)
    shim.create()
    shim.task("Start")
    stdout = bundle.streams["stdout"]
    stdout.read_until(b"one\n")
    stdout.close()
    with open(bundle.path / "stdin", "wb") as stdin:
        stdin.write(b"\n")
    assert shim.task("Wait").exit_status == 0
    assert Fifo(stdout.path).open().read_all() == b"two\nthree\n"
    shim.shutdown()


def test_no_streams_at_all(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sh", "-c", "readlink /proc/self/fd/0; cat; echo lost; exit 4"])
    bundle.streams.clear()
    shim = host.start(bundle)
    shim.create()
    assert shim.run_to_exit() == 4
    shim.shutdown()


def test_a_file_gets_both_streams_appended(host: ShimHost) -> None:
    log = host.base / "logs" / "container.log"
    log.parent.mkdir()
    log.write_text("before\n")
    bundle = host.bundle("c1", ["sh", "-c", "echo out; echo err >&2"])
    shim = host.start(bundle)
    shim.create(stdout=f"file://{log}", stderr=f"file://{log}")
    assert shim.run_to_exit() == 0
    shim.task("Delete")
    assert sorted(log.read_text().splitlines()) == ["before", "err", "out"]
    shim.task("Shutdown")


def logger(folder: Path, *, ready: bool = True) -> Path:
    """A logging program: what it gets goes to files beside it."""
    program = folder / "logger"
    close = "exec 5>&-" if ready else "exit 1"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$CONTAINER_NAMESPACE $CONTAINER_ID $*" > {folder}/who\n'
        f"{close}\n"
        f"/bin/cat <&3 > {folder}/out\n"
        f"/bin/cat <&4 > {folder}/err\n"
    )
    program.chmod(0o755)
    return program


def test_a_logging_program_reads_to_the_end(host: ShimHost) -> None:
    folder = host.base / "logger"
    folder.mkdir()
    uri = f"binary://{logger(folder)}?name=value&flag"
    bundle = host.bundle("c1", ["sh", "-c", "echo out; echo err >&2"])
    shim = host.start(bundle)
    shim.create(stdout=uri, stderr=uri)
    assert shim.run_to_exit() == 0
    shim.task("Delete")
    assert (folder / "who").read_text().split() == [host.namespace, "c1", "name", "value", "flag"]
    assert ((folder / "out").read_text(), (folder / "err").read_text()) == ("out\n", "err\n")
    shim.task("Shutdown")


def test_a_logging_program_that_does_not_get_ready_fails_the_create(warm_host: ShimHost) -> None:
    folder = warm_host.base / "logger"
    folder.mkdir()
    shim = warm_host.start(warm_host.bundle("c1", ["true"]))
    with pytest.raises(TaskError, match="logging binary did not call ready"):
        shim.create(stdout=f"binary-v2://{logger(folder, ready=False)}", stderr="")
    with pytest.raises(TaskError, match="unknown STDIO scheme gopher: invalid argument"):
        shim.create(stdout="gopher://x")
    with pytest.raises(TaskError, match="fork/exec /nonexistent: no such file or directory"):
        shim.create(stdout="binary:///nonexistent")
    shim.task("Shutdown")


def test_a_terminal(host: ShimHost) -> None:
    script = "tty; read line; stty size; echo got $line; exit 6"
    bundle = host.bundle("c1", ["sh", "-c", script], terminal=True)
    bundle.fifo("stdin")
    shim = host.start(bundle)
    shim.create(terminal=True)
    assert shim.task("State").terminal
    shim.task("Start")
    stdout = bundle.streams["stdout"]
    stdout.read_until(b"/dev/pts/0\r\n")
    shim.task("ResizePty", width=91, height=33)
    with open(bundle.path / "stdin", "wb") as stdin:
        stdin.write(b"hello\n")
    assert shim.task("Wait").exit_status == 6
    assert stdout.read_all().endswith(b"33 91\r\ngot hello\r\n")
    shim.shutdown()
    assert not [name for name in os.listdir(host.base) if name.startswith("pty")]


def test_an_exec_in_a_terminal(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sleep", "100"])
    shim = host.start(bundle)
    shim.create()
    shim.task("Start")
    console = bundle.fifo("console").open()
    shim.exec("e1", ["sh", "-c", "tty; exit 2"], terminal=True, stdout=str(console.path))
    shim.task("Start", exec_id="e1")
    assert shim.task("Wait", exec_id="e1").exit_status == 2
    assert console.read_all() == b"/dev/pts/0\r\n"
    shim.task("Delete", exec_id="e1")
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()


def test_a_user_who_is_not_root_may_reopen_its_streams(host: ShimHost) -> None:
    bundle = host.bundle(
        "c1",
        ["sh", "-c", "echo again > /dev/stdout; echo other > /dev/stderr"],
        process={"user": {"uid": 1000, "gid": 1000}},
        mounts=[
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
    )
    before = os.stat(bundle.streams["stdout"].path)
    shim = host.start(bundle)
    shim.create()
    assert shim.run_to_exit() == 0
    assert bundle.streams["stdout"].read_all() == b"again\n"
    assert bundle.streams["stderr"].read_all() == b"other\n"
    after = os.stat(bundle.streams["stdout"].path)
    assert (after.st_uid, stat.S_IMODE(after.st_mode)) == (before.st_uid, stat.S_IMODE(before.st_mode))
    shim.shutdown()


def test_output_that_nobody_reads_holds_up_neither_exit_nor_other_calls(warm_host: ShimHost) -> None:
    bundle = warm_host.bundle("c1", ["sh", "-c", "head -c 100000 /dev/zero; exit 1"])
    shim = warm_host.start(bundle)
    shim.create()
    assert shim.run_to_exit() == 1
    assert shim.task("State").exit_status == 1
    deleting = shim.send("Delete")
    assert shim.task("Connect").shim_pid
    assert len(bundle.streams["stdout"].read_all()) == 100_000
    assert shim.receive("Delete", deleting).exit_status == 1
    shim.task("Shutdown")
    wait_until(lambda: not os.path.exists(shim.address.removeprefix("unix://")), "the socket is removed")


def test_a_fifo_that_is_not_there_fails_the_create_and_leaves_no_container(warm_host: ShimHost) -> None:
    bundle = warm_host.bundle("c1", ["sleep", "100"])
    shim = warm_host.start(bundle)
    with pytest.raises(TaskError, match="/nonexistent/stdout: No such file or directory"):
        shim.create(stdout="/nonexistent/stdout")
    pid = int((bundle.path / "init.pid").read_text())
    assert has_ended(pid, 5)
    with pytest.raises(TaskError, match="container not created: not found"):
        shim.task("State")
    shim.create()
    shim.task("Start")
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()
