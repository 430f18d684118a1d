"""How newer containerds start a shim: BootstrapParams on stdin, version 3 in the answer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from cutaway.linux import cgroups
from cutaway.pb import runc_options_pb2, service, shim_v3_pb2
from cutaway.pb.bootstrap_pb2 import BootstrapParams, BootstrapResult
from shim.bundles import Bundle
from shim.driver import Shim, ShimHost
from support.peers import VENV_BIN, need
from support.process import has_ended

pytestmark = pytest.mark.root

V3 = service.methods(shim_v3_pb2.DESCRIPTOR, "Task")
DEBUG = -4


@pytest.fixture(params=["cold", "warm"])
def host(request: pytest.FixtureRequest, base_dir: Path) -> Iterator[ShimHost]:
    need("root", "busybox")
    runtime = os.fspath(VENV_BIN / "cutaway-runc")
    with ShimHost(base_dir, warm=request.param == "warm", runtime=runtime) as found:
        yield found


def params(host: ShimHost, bundle: Bundle, **more: object) -> BootstrapParams:
    return BootstrapParams(
        instance_id=bundle.id,
        namespace=host.namespace,
        containerd_version="2.3.0",
        containerd_ttrpc_address=host.events.path,
        containerd_grpc_address=str(host.address),
        containerd_binary="/bin/false",
        **more,  # type: ignore[arg-type]
    )


def packed(message: Message) -> Any:
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def task(shim: Shim, name: str, **fields: object) -> Message:
    """A call of the task service, version 3."""
    request = V3[name].request(**{"id": shim.bundle.id, **fields})
    answer = shim.client.receive(shim.client.send(name, request, service="containerd.task.v3.Task"))
    assert not answer.status.code, answer.status.message
    return V3[name].response.FromString(answer.payload)


def test_bootstrap_params_are_answered_with_a_result(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["sh", "-c", "exit 3"])
    folder = host.base / "sockets"
    given = params(host, bundle, log_level=DEBUG, socket_dir=str(folder))
    given.extensions.add().value.CopyFrom(packed(runc_options_pb2.CheckpointOptions()))
    # Without the environment, as when containerd has dropped what the message says as well.
    done = host.command(bundle, "start", stdin=given.SerializeToString(), env={"TTRPC_ADDRESS": ""})
    assert done.code == 0, done.output
    result = BootstrapResult.FromString(done.output)
    assert (result.version, result.protocol) == (3, "ttrpc")
    assert Path(result.address.removeprefix("unix://")).parent == folder
    assert (bundle.path / "address").read_text() == result.address
    shim = host.connect(bundle, result.address)
    options = packed(host.options())
    task(shim, "Create", bundle=str(bundle.path), options=options, stdout=str(bundle.path / "stdout"))
    task(shim, "Start")
    assert task(shim, "Wait").exit_status == 3  # type: ignore[attr-defined]
    host.events.wait("/tasks/exit")
    shim.crash()
    assert Path(result.address.removeprefix("unix://")).exists()
    host.delete(bundle)
    assert not Path(result.address.removeprefix("unix://")).exists()


def test_a_caller_that_knows_version_3_gets_json(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["true"])
    stdin = packed(host.options()).SerializeToString()
    done = host.command(bundle, "start", stdin=stdin, env={"MAX_SHIM_VERSION": "3"})
    answer = json.loads(done.output)
    assert answer == {
        "version": 3,
        "address": (bundle.path / "address").read_text(),
        "protocol": "ttrpc",
    }
    host.connect(bundle, answer["address"]).task("Shutdown")


@pytest.mark.parametrize("version", ["2", "", "new"])
def test_one_that_does_not_gets_the_address(host: ShimHost, version: str) -> None:
    """containerd 1.7 says 2, and refuses a 3."""
    bundle = host.bundle("c1", ["true"])
    done = host.command(bundle, "start", env={"MAX_SHIM_VERSION": version})
    assert done.output.decode() == (bundle.path / "address").read_text()
    host.connect(bundle, done.output.decode()).task("Shutdown")


def test_what_is_meant_for_another_container_is_not_taken(host: ShimHost) -> None:
    """An Any of options looks alike on the wire: what decides is the container's id."""
    bundle = host.bundle("c1", ["true"])
    given = BootstrapParams(instance_id="c2", namespace=host.namespace)
    done = host.command(bundle, "start", stdin=given.SerializeToString())
    assert done.output.startswith(b"unix://")
    host.connect(bundle, done.output.decode()).task("Shutdown")


def test_the_shim_starts_in_the_cgroup_that_is_asked_for(host: ShimHost) -> None:
    name = f"/{host.namespace}-shim"
    cgroup = cgroups.manager(name, "shim")
    cgroup.create()
    *others, last = cgroup.paths().values()
    if others:
        os.rmdir(last)  # as a client leaves it that does not know of all hierarchies
    try:
        bundle = host.bundle("c1", ["true"])
        given = params(host, bundle)
        given.extensions.add().value.CopyFrom(packed(runc_options_pb2.Options(shim_cgroup=name)))
        done = host.command(bundle, "start", stdin=given.SerializeToString())
        assert done.code == 0, done.output
        shim = host.connect(bundle, BootstrapResult.FromString(done.output).address)
        assert f":{name}\n" in Path(f"/proc/{shim.pid}/cgroup").read_text()
        pid = shim.pid
        shim.task("Shutdown")
        assert has_ended(pid, 10)
    finally:
        cgroup.delete()


def test_a_cgroup_that_is_not_there_fails_the_start(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["true"])
    options = runc_options_pb2.Options(shim_cgroup="/there/is/none")
    done = host.command(bundle, "start", stdin=packed(options).SerializeToString())
    assert done.code == 1
    assert b"failed to join cgroup /there/is/none: " in done.output
    assert not Path((bundle.path / "address").read_text().removeprefix("unix://")).exists()


def test_a_socket_folder_that_is_too_long_fails_the_start(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["true"])
    folder = host.base / ("x" * 60)
    given = params(host, bundle, socket_dir=str(folder))
    done = host.command(bundle, "start", stdin=given.SerializeToString())
    assert done.code == 1
    assert b"create new shim socket: listen unix " in done.output


def test_a_group_finds_its_shim_however_that_was_started(host: ShimHost) -> None:
    """Also one whose `start`, which had made the socket, is over."""
    group = {"io.containerd.runc.v2.group": "pod"}
    first, second = (host.bundle(id, ["true"], annotations=group) for id in ("c1", "c2"))
    shim = host.start(first)
    pid = shim.pid
    again = host.start(second)
    assert again.address == shim.address
    assert again.pid == pid
    shim.task("Shutdown")
