"""The real ctr runs containers of an image, on containerd and on ours: same output, codes and leftovers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.task_rig import Rig, beside
from support.images import busybox_image
from support.leftovers import mounts_below
from support.peers import need
from support.process import wait_until
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

IMAGE = "example.org/busybox:latest"


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig with the image of busybox."""
    need("ctr")
    with beside(request.param) as made:
        archive = made.daemon.folder / "busybox.tar"
        archive.write_bytes(busybox_image().oci_archive(IMAGE))
        made.daemon.ctr("images", "import", str(archive))
        yield made


def ctr(on: Rig, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return on.daemon.ctr(*arguments, check=False, input=input)


def test_run_prints_and_returns(on: Rig) -> None:
    done = ctr(on, "run", "--rm", IMAGE, "one", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert ctr(on, "containers", "ls", "-q").stdout == ""
    assert ctr(on, "snapshots", "ls").stdout.count("Active") == 0
    assert mounts_below(on.daemon.folder) == []


def test_run_reads_stdin(on: Rig) -> None:
    # To the end of it, this ctr would hang: it does not say that its own stdin has ended.
    command = ["sh", "-c", "read line; echo got $line"]
    assert ctr(on, "run", "--rm", IMAGE, "fed", *command, input="a\n").stdout == "got a\n"


def test_run_of_a_folder(on: Rig) -> None:
    done = ctr(on, "run", "--rm", "--rootfs", str(on.rootfs), "folder", "/bin/echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")


def test_run_that_fails_leaves_nothing(on: Rig) -> None:
    done = ctr(on, "run", "--rm", IMAGE, "bad", "nosuch")
    assert done.returncode == 1
    assert done.stderr == (
        "ctr: failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
        'container process: exec: "nosuch": executable file not found in $PATH: unknown\n'
    )
    assert ctr(on, "tasks", "ls", "-q").stdout == ""
    assert mounts_below(on.daemon.folder) == []
    ctr(on, "containers", "rm", "bad")


def test_container_in_the_background(on: Rig) -> None:
    assert ctr(on, "run", "-d", IMAGE, "back", "sleep", "1000").returncode == 0
    listed = ctr(on, "tasks", "ls").stdout
    assert re.search(r"^back +\d+ +RUNNING *$", listed, re.M)
    done = ctr(on, "tasks", "exec", "--exec-id", "e", "back", "sh", "-c", "echo inside; exit 4")
    assert (done.returncode, done.stdout) == (4, "inside\n")
    assert ctr(on, "tasks", "ps", "back").stdout.split()[0:2] == ["PID", "INFO"]
    assert "memory" in ctr(on, "tasks", "metrics", "back").stdout
    ctr(on, "tasks", "pause", "back")
    assert "PAUSED" in ctr(on, "tasks", "ls").stdout
    ctr(on, "tasks", "resume", "back")
    refused = ctr(on, "tasks", "rm", "back")
    assert "task must be stopped before deletion: running: failed precondition" in refused.stderr
    ctr(on, "tasks", "kill", "--signal", "9", "back")
    wait_until(lambda: "STOPPED" in ctr(on, "tasks", "ls").stdout, "task has stopped")
    assert "exit with non-zero exit code 137" in ctr(on, "tasks", "rm", "back").stderr
    assert ctr(on, "containers", "rm", "back").returncode == 0
    assert mounts_below(on.daemon.folder) == []


def test_changes_are_kept_in_the_snapshot(on: Rig) -> None:
    ctr(on, "run", IMAGE, "kept", "sh", "-c", "echo changed > /file")
    ctr(on, "tasks", "rm", "kept")
    started = ctr(on, "tasks", "start", "kept")
    assert started.returncode == 0
    uppers = [path for path in on.daemon.root.rglob("file") if path.parent.name == "fs"]
    assert [path.read_text() for path in uppers] == ["changed\n"]
    ctr(on, "tasks", "rm", "kept")
    ctr(on, "containers", "rm", "kept")
    wait_until(lambda: not any(map(Path.exists, uppers)), "the snapshot is gone")


def test_events_as_ctr_prints_them(on: Rig) -> None:
    log = on.daemon.folder / "events"
    with log.open("wb") as output:
        process = on.daemon.netns.popen(
            ["ctr", "--address", str(on.daemon.address), "events"], env=on.daemon.env, output=output
        )
        try:
            wait_until(lambda: subscribed(on, log), "ctr listens")
            ctr(on, "run", "--rm", IMAGE, "seen", "true")
            wait_until(lambda: "/containers/delete" in log.read_text(), "the last event")
        finally:
            process.kill()
            process.wait()
    topics = re.findall(rf" {re.escape(on.namespace)} (/\S+) ", log.read_text())
    shown = [
        topic for topic in topics if topic.startswith(("/tasks", "/containers/create", "/containers/delete"))
    ]
    assert shown == [
        "/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete",
        "/containers/delete",
    ]  # fmt: skip
    assert '{"container_id":"seen","id":"seen","pid"' in log.read_text()


def subscribed(on: Rig, log: Path) -> bool:
    on.event_service("Publish", topic="/rig/ready", event={"type_url": "containerd.events.TaskOOM"})
    return "/rig/ready" in log.read_text()
