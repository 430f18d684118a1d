"""What containerd refuses about tasks, in its own words, asserted on it and then on ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containerd.task_rig import (
    Refused,
    Rig,
    assert_nothing_left,
    beside,
    fields_of,
    refused,
    script,
)
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

RUNNING = 2


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig on containerd, then on cutaway-containerd."""
    with beside(request.param) as made:
        yield made


@pytest.mark.parametrize(
    "method", ["Get", "Start", "Delete", "Kill", "Pause", "Resume", "ListPids", "Update", "Wait", "CloseIO",
               "ResizePty", "Checkpoint"]
)  # fmt: skip
def test_missing_container_and_missing_task(on: Rig, method: str) -> None:
    with refused("NOT_FOUND", f'container "none" in namespace "{on.namespace}": not found'):
        on.tasks(method, container_id="none")
    on.container("idle", "true")
    with refused("NOT_FOUND", "task idle not found"):
        on.tasks(method, container_id="idle")
    on.containers("Delete", id="idle")


def test_missing_container_cannot_be_created(on: Rig) -> None:
    with refused("NOT_FOUND", f'container "none" in namespace "{on.namespace}": not found'):
        on.tasks("Create", container_id="none")


def test_task_exists_already(on: Rig) -> None:
    on.running("twice")
    with refused("ALREADY_EXISTS", "task twice: already exists"):
        on.tasks("Create", container_id="twice")
    with refused("UNKNOWN", "cannot start a running process: unknown"):
        on.tasks("Start", container_id="twice")
    assert on.tasks("Get", container_id="twice").process.status == RUNNING
    on.end("twice")


def test_running_task_is_not_deleted(on: Rig) -> None:
    on.running("busy")
    with refused("UNKNOWN", "failed to delete task: cannot delete a running process: unknown"):
        on.tasks("Delete", container_id="busy")
    assert on.tasks("Get", container_id="busy").process.status == RUNNING
    assert on.end("busy") == 137


@pytest.mark.parametrize(
    ("runtime", "why"),
    [
        (
            "io.containerd.nosuch.v1",
            'failed to resolve runtime path: runtime "io.containerd.nosuch.v1" binary not installed '
            '"containerd-shim-nosuch-v1": file does not exist',
        ),
        (
            "nosuch",
            "failed to resolve runtime path: invalid runtime name nosuch, correct runtime name should be "
            "either format like `io.containerd.runc.v1` or a full path to the binary",
        ),
        (
            "/nosuch/shim",
            "failed to resolve runtime path: invalid custom binary path: stat /nosuch/shim: "
            "no such file or directory",
        ),
        ("/bin/false", "start failed: : exit status 1"),
    ],
)
def test_shim_that_cannot_be_started(on: Rig, runtime: str, why: str) -> None:
    on.container("shimless", "true", runtime=runtime)
    with refused("UNKNOWN", f"failed to start shim: {why}"):
        on.tasks("Create", container_id="shimless")
    assert_nothing_left(on, "shimless")
    on.containers("Delete", id="shimless")


def test_what_the_shims_start_says_is_in_the_error(on: Rig) -> None:
    program = script(on, "complaining", "echo out of order >&2; exit 4")
    on.container("complaint", "true", runtime=str(program))
    with pytest.raises(Refused) as caught:
        on.tasks("Create", container_id="complaint")
    assert caught.value.code == "UNKNOWN"
    # Ours is one line, as all our errors.
    text = caught.value.text.replace("\n", "")
    assert text == "failed to start shim: start failed: out of order: exit status 4"
    assert_nothing_left(on, "complaint")
    on.containers("Delete", id="complaint")


def test_failed_create_leaves_nothing(on: Rig) -> None:
    spec = on.spec("failing", ["nosuch"])
    spec["root"] = {"path": "rootfs"}
    on.container("failing", spec=spec)
    mount = {"type": "bind", "source": str(on.rootfs), "options": ["rbind", "rw"]}
    with on.events("topic~=|^/tasks/|") as events:
        with refused(
            "UNKNOWN",
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
            'container process: exec: "nosuch": executable file not found in $PATH: unknown',
        ):
            on.tasks("Create", container_id="failing", rootfs=[mount])
        assert_nothing_left(on, "failing")
        on.running("next")
        assert fields_of(events.next(), "container_id") == ("next",)
    on.end("next")
    on.containers("Delete", id="failing")


def test_mount_that_fails(on: Rig) -> None:
    on.container("unmountable", "true")
    why = "failed to mount rootfs component &{nosuchfs x []}: no such device: unknown"
    with refused("UNKNOWN", f"failed to create shim task: {why}"):
        on.tasks("Create", container_id="unmountable", rootfs=[{"type": "nosuchfs", "source": "x"}])
    assert_nothing_left(on, "unmountable")
    on.containers("Delete", id="unmountable")
