"""Saving and restoring, down to the runtime's command line; criu itself is not asked."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from cutaway.pb import runc_options_pb2, task_events_pb2
from shim.bundles import Bundle
from shim.driver import Shim, ShimHost, TaskError
from support.peers import VENV_BIN, need, peer
from support.process import has_ended

pytestmark = [pytest.mark.root, pytest.mark.peers]

# What a runtime with a criu would do: restoring is creating and starting; the process comes from the shell.
RUNTIME = """#!/bin/sh
echo "$*" >> {base}/calls
case " $* " in
*" checkpoint "*)
    if [ -e {base}/fail ]; then
        mkdir -p "{base}/state/c1/work/criu-work"
        echo "what criu did" > {base}/state/c1/work/criu-work/dump.log
        echo "criu failed: type NOTIFY errno 0" >&2
        echo "log file: dump.log" >&2
        exit 1
    fi
    exit 0;;
*" restore "*)
    for word in "$@"; do
        [ "$previous" = --pid-file ] && file=$word
        [ "$previous" = --console-socket ] && console=$word
        previous=$word
    done
    [ -e {base}/fail ] && exit 1
    sleep 1000 <&0 &
    printf %s $! > "$file"
    echo "goes on";;
*" kill "*)
    kill -9 "$(cat {base}/state/c1/init.pid)";;
*" delete "*) exit 0;;
*)
    exec {runc} "$@";;
esac
"""


@pytest.fixture
def host(base_dir: Path) -> Iterator[ShimHost]:
    need("root", "busybox", "runc")
    program = base_dir / "runtime-with-criu"
    program.write_text(RUNTIME.format(base=shlex.quote(str(base_dir)), runc=peer("runc")))
    program.chmod(0o755)
    with ShimHost(base_dir, runtime=os.fspath(program)) as found:
        yield found


def calls(host: ShimHost, verb: str) -> list[list[str]]:
    """The words that followed the global ones in the calls of a verb."""
    lines = (host.base / "calls").read_text().splitlines()
    words = [line.split(" json ", 1)[1].split() for line in lines]
    return [line for line in words if line[0] == verb]


def packed(options: runc_options_pb2.CheckpointOptions) -> Any:
    return Any(type_url="containerd.runc.v1.CheckpointOptions", value=options.SerializeToString())


@pytest.fixture
def running(host: ShimHost) -> Iterator[Shim]:
    shim = host.start(host.bundle("c1", ["sleep", "1000"]))
    pid = shim.create()
    shim.task("Start")
    yield shim
    os.kill(pid, 9)
    shim.task("Wait")
    shim.task("Delete")
    shim.task("Shutdown")


def test_a_checkpoint_passes_its_options_on(host: ShimHost, running: Shim) -> None:
    running.task("Checkpoint", path="/images")
    options = runc_options_pb2.CheckpointOptions(
        exit=True,
        open_tcp=True,
        external_unix_sockets=True,
        terminal=True,
        file_locks=True,
        empty_namespaces=["network"],
        work_path="/work",
        parent_path="../before",
        cgroups_mode="full",
    )
    running.task("Checkpoint", path="/images", options=packed(options))
    work = running.bundle.path / "work/criu-work"
    assert calls(host, "checkpoint") == [
        ["checkpoint", "--image-path", "/images", "--work-path", str(work), "--leave-running", "c1"],
        [
            "checkpoint", "--image-path", "/images", "--work-path", "/work", "--parent-path", "../before",
            "--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks",
            "--manage-cgroups-mode", "full", "--empty-ns", "network", "c1",
        ],
    ]  # fmt: skip


def test_a_failed_checkpoint_says_where_criu_tells_why(host: ShimHost, running: Shim) -> None:
    (host.base / "fail").touch()
    with pytest.raises(TaskError) as caught:
        running.task("Checkpoint", path="/images")
    kept = running.bundle.path / "criu-dump.log"
    assert caught.value.code == 2
    assert caught.value.message == (
        f"{host.runtime} did not terminate successfully: exit status 1: criu failed: type NOTIFY errno 0 "
        f"path= {kept}"
    )
    assert kept.read_text() == "what criu did\n"
    assert not (running.bundle.path / "work/criu-work").exists()
    assert running.task("State").status == 2, "it goes on"


def test_what_is_no_checkpoint_option_is_refused(running: Shim) -> None:
    with pytest.raises(TaskError, match=r"checkpoint options of type some\.Thing") as caught:
        running.task("Checkpoint", path="/images", options=Any(type_url="some.Thing", value=b"x"))
    assert caught.value.code == 3
    with pytest.raises(TaskError, match="checkpoint options: "):
        options = Any(type_url="containerd.runc.v1.CheckpointOptions", value=b"\x08")
        running.task("Checkpoint", path="/images", options=options)


def restored(host: ShimHost, bundle: Bundle) -> Shim:
    """A shim that was asked to create a container from a checkpoint."""
    shim = host.start(bundle)
    options = host.options()
    options.no_pivot_root = True
    options.criu_work_path = "/criu-work"
    packed = {"type_url": "containerd.runc.v1.Options", "value": options.SerializeToString()}
    request = {"bundle": str(bundle.path), "checkpoint": "/images", "options": packed}
    assert shim.task("Create", stdout=str(bundle.path / "stdout"), **request).pid == 0
    return shim


def test_a_container_from_a_checkpoint_runs_from_its_start_on(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sleep", "1000"])
    shim = restored(host, bundle)
    assert not (host.base / "calls").exists(), "there is nothing to create"
    state = shim.task("State")
    assert (state.status, state.pid) == (1, 0)
    for verb, words in {
        "Pause": "cannot pause task in created state",
        "Checkpoint": "cannot checkpoint a task in created state",
    }.items():
        with pytest.raises(TaskError, match=words):
            shim.task(verb)
    with pytest.raises(TaskError, match="cannot exec in a created state"):
        shim.exec("e1", ["true"])
    pid = shim.task("Start").pid
    (restore,) = calls(host, "restore")
    assert restore == [
        "restore", "--image-path", "/images", "--work-path", "/criu-work", "--detach",
        "--pid-file", f"{bundle.path}/init.pid", "--no-pivot", "-no-subreaper",
        "--bundle", str(bundle.path), "c1",
    ]  # fmt: skip
    assert shim.task("State").pid == pid == int((bundle.path / "init.pid").read_text())
    bundle.streams["stdout"].read_until(b"goes on\n")
    shim.task("Kill", signal=9)
    assert shim.task("Wait").exit_status == 137
    shim.shutdown()
    host.events.wait("/tasks/delete")
    assert host.events.topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    created = task_events_pb2.TaskCreate.FromString(host.events.envelopes[0].event.value)
    assert (created.checkpoint, created.pid) == ("/images", 0)


def test_a_restore_that_fails_may_be_tried_again_or_deleted(host: ShimHost) -> None:
    shim = restored(host, host.bundle("c1", ["sleep", "1000"]))
    (host.base / "fail").touch()
    with pytest.raises(TaskError, match="OCI runtime restore failed: "):
        shim.task("Start")
    assert shim.task("State").status == 1
    shim.shutdown()


def test_a_restored_process_dies_with_its_container(host: ShimHost) -> None:
    shim = restored(host, host.bundle("c1", ["sleep", "1000"]))
    pid = shim.task("Start").pid
    os.kill(pid, 15)
    assert shim.task("Wait").exit_status == 143
    assert has_ended(pid, 5)
    shim.shutdown()


def test_our_own_runtime_knows_the_words(base_dir: Path) -> None:
    """Up to criu, which is not there: the command line is understood."""
    need("root", "busybox")
    runtime = os.fspath(VENV_BIN / "cutaway-runc")
    with ShimHost(base_dir, warm=True, runtime=runtime) as host:
        shim = restored(host, host.bundle("c1", ["sleep", "1000"]))
        with pytest.raises(TaskError, match=r"OCI runtime restore failed: .*criu") as caught:
            shim.task("Start")
        assert "flag" not in caught.value.message
        shim.shutdown()
