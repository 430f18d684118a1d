"""Events by the program that the container service names, where it has no socket for them."""

from __future__ import annotations

import pytest

from containerd.task_rig import fields_of, rig
from shim.driver import ShimHost
from support.netns import NetNs
from support.peers import VENV_BIN, need, peer
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.mark.parametrize("kind", [RealContainerd, OurContainerd])
def test_events_by_the_publish_binary(warm_host: ShimHost, kind: type[Containerd]) -> None:
    need("containerd", "busybox")
    binary = peer("containerd") if kind is RealContainerd else VENV_BIN / "cutaway-containerd"
    with NetNs() as netns, kind(warm_host.base / "daemon", netns) as daemon:
        with rig(daemon, warm_host.base / "daemon") as on, on.events("topic~=|^/tasks/|") as events:
            bundle = warm_host.bundle("c1", ["sh", "-c", "exit 5"])
            flags = ("-address", str(daemon.address), "-publish-binary", str(binary))
            env = {"TTRPC_ADDRESS": ""}
            done = warm_host.command(bundle, "start", *flags, "-namespace", on.namespace, env=env)
            assert done.code == 0, done.output
            shim = warm_host.connect(bundle, done.output.decode())
            shim.create()
            assert shim.run_to_exit() == 5
            shim.shutdown()
            seen = events.until("/tasks/delete")
    assert [event.topic for event in seen] == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ]
    assert {event.namespace for event in seen} == {on.namespace}
    assert fields_of(seen[2], "container_id", "id", "exit_status") == ("c1", "c1", 5)
