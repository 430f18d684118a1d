"""The restart monitor and the opt folder, beside containerd's own; what came with 1.7 on ours alone."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.images import Image, Layer, busybox_image, tar
from support.netns import Command, NetNs
from support.peers import need
from support.process import wait_until
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

IMAGE = "example.org/busybox:latest"
RESTART = "containerd.io/restart"
TABLES = """
[plugins."io.containerd.internal.v1.restart"]
interval = "300ms"
"""
OPT = """
[plugins."io.containerd.internal.v1.opt"]
path = "{daemon.folder}/opt"
"""


class Real(RealContainerd):
    def prepare(self) -> None:
        super().prepare()
        with (self.folder / "config.toml").open("a") as file:
            file.write(TABLES)


class Ours(OurContainerd):
    def prepare(self) -> None:
        (self.folder / "config.toml").write_text(TABLES + OPT.format(daemon=self))

    def command(self) -> Command:
        return [*super().command(), "--config", self.folder / "config.toml"]


def with_image(daemon: Containerd) -> Containerd:
    archive = daemon.folder / "busybox.tar"
    archive.write_bytes(busybox_image().oci_archive(IMAGE))
    daemon.ctr("images", "import", str(archive))
    return daemon


@pytest.fixture(scope="module", params=[Real, Ours])
def daemon(request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs) -> Iterator[Containerd]:
    need("ctr", "containerd", "runc", "containerd-shim-runc-v2")
    name = f"restart-{request.param.__name__.lower()}"
    with request.param(session_base, session_netns, name=name) as running:
        yield with_image(running)


@pytest.fixture(scope="module")
def ours(session_base: Path, session_netns: NetNs) -> Iterator[Containerd]:
    need("ctr", "runc", "containerd-shim-runc-v2")
    with Ours(session_base, session_netns, name="restart-policies") as running:
        yield with_image(running)


def run(daemon: Containerd, id: str, *command: str) -> int:
    """Run a container in the background; returns its process."""
    daemon.ctr("run", "-d", IMAGE, id, *command)
    return tasks(daemon)[id][0]


def tasks(daemon: Containerd) -> dict[str, tuple[int, str]]:
    """Process and status of each task."""
    lines = daemon.ctr("tasks", "ls").stdout.splitlines()[1:]
    return {id: (int(pid), status) for id, pid, status in map(str.split, lines)}


def label(daemon: Containerd, id: str, **labels: str) -> None:
    pairs = [f"{RESTART}.{key.replace('_', '-')}={value}" for key, value in labels.items()]
    daemon.ctr("containers", "label", id, *pairs)


def labels(daemon: Containerd, id: str) -> dict[str, str]:
    found = json.loads(daemon.ctr("containers", "info", id).stdout)["Labels"]
    return {key.removeprefix(f"{RESTART}."): value for key, value in found.items()}


def remove(daemon: Containerd, id: str) -> None:
    label(daemon, id, status="")
    daemon.ctr("tasks", "rm", "-f", id, check=False)
    daemon.ctr("containers", "rm", id)


def runs_anew(daemon: Containerd, id: str, before: int) -> bool:
    pid, status = tasks(daemon).get(id, (before, ""))
    return pid != before and status == "RUNNING"


def test_a_container_that_is_to_run_is_started_again(daemon: Containerd) -> None:
    log = daemon.folder / "again.log"
    before = run(daemon, "again", "sh", "-c", "echo hello; exec sleep 1000")
    label(daemon, "again", status="running", loguri=f"file://{log}")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: runs_anew(daemon, "again", before), "the task runs again")
    wait_until(lambda: log.exists() and log.read_text() == "hello\n", "its output goes to the file")
    # A task that was deleted is made anew as well.
    now = tasks(daemon)["again"][0]
    daemon.ctr("tasks", "rm", "-f", "again")
    wait_until(lambda: runs_anew(daemon, "again", now), "the task is there again")
    remove(daemon, "again")


def test_a_container_that_is_to_be_stopped_is_stopped(daemon: Containerd) -> None:
    run(daemon, "stop", "sleep", "1000")
    label(daemon, "stop", status="stopped")
    wait_until(lambda: "stop" not in tasks(daemon), "the task is killed and deleted")
    remove(daemon, "stop")


def test_a_paused_task_and_one_without_the_label_are_left_alone(ours: Containerd) -> None:
    """On ours: containerd 1.6 kills a paused task and starts it anew."""
    paused, plain = run(ours, "paused", "sleep", "1000"), run(ours, "plain", "true")
    label(ours, "paused", status="running")
    ours.ctr("tasks", "pause", "paused")
    other = run(ours, "other", "true")
    label(ours, "other", status="running")
    wait_until(lambda: int(labels(ours, "other").get("count", "0")) >= 2, "the monitor has looked twice")
    found = tasks(ours)
    assert found["paused"] == (paused, "PAUSED")
    assert found["plain"] == (plain, "STOPPED")
    assert found.get("other", (0, ""))[0] != other
    for id in ("paused", "plain", "other"):
        remove(ours, id)


@pytest.mark.parametrize(
    ("policy", "command", "count"),
    [("on-failure:2", "false", 2), ("on-failure", "true", 0), ("no", "false", 0), ("nonsense", "false", 0)],
)
def test_policies_end_somewhere(ours: Containerd, policy: str, command: str, count: int) -> None:
    run(ours, "policy", command)
    label(ours, "policy", policy=policy, status="running")
    run(ours, "beside", "true")
    label(ours, "beside", status="running")
    # Of two containers both are seen to at every look.
    wait_until(lambda: int(labels(ours, "beside").get("count", "0")) >= count + 2, "so many looks")
    assert int(labels(ours, "policy").get("count", "0")) == count
    for id in ("policy", "beside"):
        remove(ours, id)


def test_unless_stopped_on_purpose(ours: Containerd) -> None:
    before = run(ours, "unless", "sleep", "1000")
    label(ours, "unless", policy="unless-stopped", status="running")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: runs_anew(ours, "unless", before), "the task runs again")
    label(ours, "unless", explicitly_stopped="true")
    now = tasks(ours)["unless"][0]
    os.kill(now, signal.SIGKILL)
    run(ours, "beside", "true")
    label(ours, "beside", status="running")
    wait_until(lambda: int(labels(ours, "beside").get("count", "0")) >= 2, "the monitor has looked twice")
    assert tasks(ours)["unless"] == (now, "STOPPED")
    for id in ("unless", "beside"):
        remove(ours, id)


def test_what_ended_while_the_daemon_was_down_runs_after_its_start(ours: Containerd) -> None:
    before = run(ours, "down", "sleep", "1000")
    label(ours, "down", status="running")
    ours.crash()
    os.kill(before, signal.SIGKILL)
    ours.start()
    wait_until(lambda: runs_anew(ours, "down", before), "the task runs again")
    remove(ours, "down")


def test_programs_of_an_image_are_installed(daemon: Containerd) -> None:
    """`ctr install`: the daemon says where to, and finds them there."""
    layer = tar(
        {"bin/tool": b"#!/bin/sh\n", "lib/libtool.so": b"lib", "etc/other": b"x"}, programs=["bin/tool"]
    )
    archive = daemon.folder / "tool.tar"
    archive.write_bytes(Image((Layer(layer),), {}).oci_archive("example.org/tool:1"))
    daemon.ctr("images", "import", str(archive))
    opt = daemon.folder / "opt"
    daemon.ctr("install", "--libs", "example.org/tool:1")
    assert (opt / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (opt / "lib/libtool.so").read_bytes() == b"lib"
    assert not (opt / "etc").exists()
    again = daemon.ctr("install", "--libs", "example.org/tool:1", check=False)
    assert re.search(rf"cannot replace (bin/tool|lib/libtool.so) in {opt}", again.stderr)
    daemon.ctr("install", "--libs", "--replace", "example.org/tool:1")
    # A shim that is installed so is found by its runtime's name.
    shim = opt / "bin/containerd-shim-tool-v1"
    shim.write_text("#!/bin/sh\necho I am the tool >&2; exit 9\n")
    shim.chmod(0o755)
    done = daemon.ctr("run", "--rm", "--runtime", "io.containerd.tool.v1", IMAGE, "tool", check=False)
    assert "I am the tool" in done.stderr
