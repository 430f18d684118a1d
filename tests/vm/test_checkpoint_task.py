"""A task saved and made again by the real criu, through a service, our shim and our runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from containerd.client import Client
from containerd.task_rig import Refused, Rig, assert_nothing_left, beside, runtime_options
from cutaway.pb import runc_options_pb2
from cutaway.pb.descriptor_pb2 import Descriptor
from runc.bundles import cgroups_named
from support.criu import working_criu
from support.peers import VENV_BIN
from support.process import has_ended, wait_until
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.1; done"
LEASE = "checkpoint"
SAVED = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
SPEC = "application/vnd.containerd.container.checkpoint.config.v1+proto"


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    working_criu()
    with beside(request.param, path_prefix=[VENV_BIN]) as made:
        made.runtime = "io.containerd.cutaway.v1"
        with Client(made.daemon.address, made.namespace) as client:
            client.lease(LEASE)
        yield made


def counting(on: Rig, name: str) -> int:
    """A task that counts, in a file on a tmpfs of its own; its pid."""
    pid = on.running(name, spec=spec(on, name), options=runtime_options(VENV_BIN / "cutaway-runc"))
    wait_until(lambda: count(pid) > 3, "it counts")
    return pid


def spec(on: Rig, name: str) -> dict[str, object]:
    found = on.spec(name, ["sh", "-c", COUNT])
    mounts = found["mounts"]
    assert isinstance(mounts, list)
    mounts.append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]})
    return found


def count(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/root/tmp/count").read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def goes_on(pid: int) -> None:
    before = count(pid)
    assert before > 3
    wait_until(lambda: count(pid) > before, "it goes on counting")


def checkpoint(on: Rig, name: str, *, exit: bool) -> list[Descriptor]:
    """What has been saved, kept by a lease."""
    value = runc_options_pb2.CheckpointOptions(exit=exit).SerializeToString()
    options = Any(type_url="containerd.runc.v1.CheckpointOptions", value=value)
    lease = (("containerd-lease", LEASE),)
    with told(on):
        return list(on.tasks("Checkpoint", metadata=lease, container_id=name, options=options).descriptors)


@contextmanager
def told(on: Rig) -> Iterator[None]:
    """Show the end of criu's log beside a refusal."""
    try:
        yield
    except Refused as error:
        logs = [path for top in (on.daemon.state, on.daemon.root) for path in top.glob("**/*dump.log")]
        logs += on.daemon.root.glob("**/restore.log")
        pytest.fail(f"{error.text}\n" + "\n".join(path.read_text()[-4000:] for path in logs))


def test_a_task_is_saved_and_another_made_from_it(on: Rig, name: str) -> None:
    counting(on, name)
    saved = checkpoint(on, name, exit=True)
    on.tasks("Wait", container_id=name)
    on.drop(name)
    assert cgroups_named(name) == []

    again = f"{name}-2"
    options = runtime_options(VENV_BIN / "cutaway-runc")
    on.container(again, spec=spec(on, again), options=options)
    assert on.tasks("Create", container_id=again, checkpoint=saved[0]).pid == 0
    with told(on):
        pid = on.tasks("Start", container_id=again).pid
    goes_on(pid)
    (cgroup,) = cgroups_named(again)
    assert str(pid) in (cgroup / "cgroup.procs").read_text().split()
    on.exec(again, "e1", "true")
    on.tasks("Start", container_id=again, exec_id="e1")
    assert on.tasks("Wait", container_id=again, exec_id="e1").exit_status == 0
    assert on.end(again) == 137
    assert has_ended(pid)
    assert_nothing_left(on, again)
    assert cgroups_named(again) == []


def test_a_task_goes_on_while_it_is_saved(on: Rig, name: str) -> None:
    pid = counting(on, name)
    assert [each.media_type for each in checkpoint(on, name, exit=False)] == [SAVED, SPEC]
    goes_on(pid)
    assert on.statuses()[name] == 2
    assert on.end(name) == 137
