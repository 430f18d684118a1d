"""The real peers start, work together and leave nothing behind; so the support code does its part."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.images import busybox_image, push_index
from support.leftovers import Leftovers, temporary_base
from support.netns import Command, NetNs
from support.peers import PEERS, containers_env, find_peer, need, peer
from support.stack import RealContainerd, RealDockerd, RealRegistry, substitute

pytestmark = [pytest.mark.root, pytest.mark.peers]

RUNTIME_PEERS = ("containerd", "containerd-shim-runc-v2", "runc", "ctr", "busybox")
DOCKER_PEERS = (*RUNTIME_PEERS, "dockerd", "docker", "docker-proxy", "docker-init", "iptables")


def test_unknown_peer_is_none() -> None:
    assert find_peer("no-such-program") is None


def test_lack_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUTAWAY_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^needs no-such-program$"):
        need("no-such-program")
    monkeypatch.setenv("CUTAWAY_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match=r"^needs no-such-program$"):
        need("no-such-program")


def test_netns_has_its_own_loopback(netns: NetNs) -> None:
    assert netns.call(os.listdir, "/proc/self/net") is not None
    links = netns.run(["cat", "/proc/self/net/dev"]).stdout.splitlines()[2:]
    assert [link.split(":")[0].strip() for link in links] == ["lo"]


def test_closing_a_netns_kills_grandchildren() -> None:
    netns = NetNs()
    process = netns.popen(
        ["sh", "-c", "(trap '' TERM HUP; cat <>/dev/null & exec cat <&-) & exec cat /dev/zero"]
    )
    netns.close()
    assert process.wait(10) < 0
    assert netns.processes() == []


def test_containerd_answers(real_containerd: RealContainerd) -> None:
    version = real_containerd.ctr("version").stdout
    client, server = version.split("Server:")
    assert "Version:  1.6.20" in client and "Version:  1.6.20" in server


def test_containerd_runs_a_container(real_containerd: RealContainerd, base_dir: Path) -> None:
    archive = base_dir / "busybox.tar"
    archive.write_bytes(busybox_image().oci_archive("test/run:latest"))
    real_containerd.ctr("images", "import", "--base-name", "test/run", os.fspath(archive))
    run = real_containerd.ctr("run", "--rm", "test/run:latest", "one", "sh", "-c", "echo hi; id -un")
    assert run.stdout == "hi\nroot\n"


def test_dockerd_runs_a_container(real_dockerd: RealDockerd) -> None:
    assert real_dockerd.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"


def test_dockerd_publishes_a_port(real_dockerd: RealDockerd) -> None:
    """Bridge, veth, iptables and docker-proxy all have to work for this."""
    serve = ["sh", "-c", "echo hello >index.html; exec httpd -f -p 80"]
    container = real_dockerd.docker(
        "run", "-d", "--rm", "-w", "/tmp", "-p", "8080:80", "busybox", *serve
    ).stdout
    try:
        fetch = ["run", "--rm", "--network", "host", "busybox"]
        fetch += ["sh", "-c", "until wget -qO- http://127.0.0.1:8080/; do usleep 10000; done"]
        assert real_dockerd.docker(*fetch).stdout == "hello\n"
    finally:
        real_dockerd.docker("kill", container.strip())


def test_dockerd_pulls(real_dockerd: RealDockerd, registry: RealRegistry) -> None:
    reference = f"{registry.host}/library/busybox:latest"
    real_dockerd.docker("pull", reference)
    assert (
        real_dockerd.docker("inspect", "--format", "{{.Id}}", reference).stdout.strip() == busybox_image().id
    )
    real_dockerd.docker("rmi", reference)


def test_ctr_pulls(real_containerd: RealContainerd, registry: RealRegistry) -> None:
    reference = f"{registry.host}/library/busybox:latest"
    real_containerd.ctr("images", "pull", "--plain-http", reference)
    assert real_containerd.ctr("images", "ls", "-q", f"name=={reference}").stdout.strip() == reference


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_skopeo_reads_what_is_pushed(registry: RealRegistry, base_dir: Path, docker: bool) -> None:
    digest = registry.push(busybox_image(), "test/skopeo", f"docker-{docker}".lower(), docker=docker)
    reference = f"docker://{registry.host}/test/skopeo@{digest}"
    inspect: Command = [peer("skopeo"), "inspect", "--tls-verify=false", "--config", reference]
    config = json.loads(registry.netns.run(inspect, env=containers_env(base_dir)).stdout)
    assert config["config"]["Cmd"] == ["sh"]


def test_an_index_is_resolved(registry: RealRegistry, real_dockerd: RealDockerd) -> None:
    images = {"linux/amd64": busybox_image(), "linux/arm64": busybox_image()}
    registry.netns.call(push_index, registry.host, "test/index", "latest", images)
    reference = f"{registry.host}/test/index:latest"
    real_dockerd.docker("pull", reference)
    real_dockerd.docker("rmi", reference)


def test_podman_runs_a_container(netns: NetNs, base_dir: Path) -> None:
    need("podman", "conmon", "runc", "busybox")
    archive = base_dir / "busybox.tar"
    archive.write_bytes(busybox_image().docker_archive("localhost/busybox:latest"))
    env = containers_env(base_dir / "podman")
    netns.run([peer("podman"), "load", "--input", archive], env=env)
    run: Command = [peer("podman"), "run", "--rm", "--network", "none", "localhost/busybox", "echo", "hi"]
    assert netns.run(run, env=env).stdout == "hi\n"


def test_stack_in_two_halves_outlives_a_crash(netns: NetNs, base_dir: Path) -> None:
    need(*DOCKER_PEERS)
    with RealContainerd(base_dir, netns) as containerd:
        args = ["--live-restore"]
        with RealDockerd(base_dir, netns, containerd_socket=containerd.address, extra_args=args) as dockerd:
            dockerd.load_busybox()
            dockerd.docker("run", "-d", "--name", "kept", "busybox", "sleep", "1000")
            dockerd.crash()
            dockerd.start()
            running = dockerd.docker("inspect", "--format", "{{.State.Running}}", "kept").stdout
            assert running == "true\n"


def test_path_prefix_comes_first(netns: NetNs, base_dir: Path) -> None:
    need(*RUNTIME_PEERS)
    runtime = base_dir / "runtime"
    runtime.write_text(f'#!/bin/sh\necho called >>{base_dir}/calls\nexec {PEERS}/bin/runc "$@"\n')
    runtime.chmod(0o755)
    prefix = [substitute(base_dir / "bin", runc=runtime)]
    archive = base_dir / "busybox.tar"
    archive.write_bytes(busybox_image().oci_archive())
    with RealContainerd(base_dir, netns, prefix) as containerd:
        containerd.ctr("images", "import", "--base-name", "test/prefix", os.fspath(archive))
        containerd.ctr("run", "--rm", "test/prefix:latest", "one", "true")
    assert "called" in (base_dir / "calls").read_text()


def test_nothing_is_left_of_a_stack_with_running_containers() -> None:
    need(*DOCKER_PEERS)
    with temporary_base() as base, NetNs() as netns:
        before = Leftovers.snapshot(base)
        with RealContainerd(base, netns) as containerd:
            with RealDockerd(base, netns, containerd_socket=containerd.address) as dockerd:
                dockerd.load_busybox()
                dockerd.docker("run", "-d", "busybox", "sleep", "1000")
                running = Leftovers.snapshot(base).since(before)
                assert running.mounts and running.cgroups and running.processes and running.shim_sockets
                sockets = running.shim_sockets
                dockerd.crash()
        after = Leftovers.snapshot(base).since(before)
        assert not after.mounts and not after.processes and not after.shim_sockets, str(after)
    assert not (left := Leftovers.snapshot(base)), str(left)
    assert not base.exists()
    assert not [path for path in sockets if os.path.exists(path)]
