"""cutaway-registry as the real clients see it: skopeo, docker with dockerd, ctr with containerd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.daemon import OurRegistry
from support.images import busybox_image, push_index
from support.netns import NetNs
from support.peers import containers_env, need, peer
from support.stack import RealContainerd, RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module")
def ours(session_base: Path, session_netns: NetNs) -> Iterator[OurRegistry]:
    need("busybox")
    with OurRegistry(session_base, session_netns, ["--with-hello"]) as registry:
        yield registry


@pytest.fixture
def skopeo_env(base_dir: Path) -> dict[str, str]:
    need("skopeo")
    return {**containers_env(base_dir), "HOME": os.fspath(base_dir), "PATH": "/usr/bin:/bin"}


def skopeo(ours: OurRegistry, env: dict[str, str], *arguments: str) -> str:
    return ours.netns.run([peer("skopeo"), *arguments], env=env).stdout


def test_skopeo_copies_in_both_directions(
    ours: OurRegistry, skopeo_env: dict[str, str], base_dir: Path
) -> None:
    image = busybox_image()
    layout = image.oci_layout(base_dir / "in")
    there = f"docker://{ours.host}/team/tools"
    skopeo(ours, skopeo_env, "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"{there}:1")
    skopeo(ours, skopeo_env, "copy", "--src-tls-verify=false", f"{there}:1", f"oci:{base_dir}/out:1")
    listed = json.loads(skopeo(ours, skopeo_env, "list-tags", "--tls-verify=false", there))
    seen = json.loads(skopeo(ours, skopeo_env, "inspect", "--tls-verify=false", f"{there}:1"))
    assert listed["Tags"] == ["1"]
    assert seen["Digest"] == image.manifest().digest
    returned = json.loads((base_dir / "out/index.json").read_text())
    assert returned["manifests"][0]["digest"] == image.manifest().digest


def test_skopeo_copies_an_index_whole_and_deletes(
    ours: OurRegistry, skopeo_env: dict[str, str], base_dir: Path
) -> None:
    image = busybox_image()
    digest = ours.netns.call(
        push_index, ours.host, "multi", "1", {"linux/amd64": image, "linux/arm64": image}
    )
    copy = ("copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false")
    there = f"docker://{ours.host}/elsewhere/multi:2"
    skopeo(ours, skopeo_env, *copy, f"docker://{ours.host}/multi:1", there)
    assert json.loads(skopeo(ours, skopeo_env, "inspect", "--tls-verify=false", there))["Digest"] == digest
    skopeo(ours, skopeo_env, "delete", "--tls-verify=false", there)
    gone = ours.netns.run(
        [peer("skopeo"), "inspect", "--tls-verify=false", there], env=skopeo_env, check=False
    )
    assert gone.returncode and "manifest unknown" in gone.stderr


def test_docker_pulls_pushes_and_runs(ours: OurRegistry, real_dockerd: RealDockerd) -> None:
    hello, tools = f"{ours.host}/library/hello-world", f"{ours.host}/from/docker:1"
    pulled = real_dockerd.docker("pull", hello)
    assert f"Status: Downloaded newer image for {hello}:latest" in pulled.stdout
    assert real_dockerd.docker("run", "--rm", "--network=none", hello).stdout.startswith(
        "Hello from Cutaway!"
    )
    real_dockerd.docker("tag", "busybox:latest", tools)
    pushed = real_dockerd.docker("push", tools)
    assert "1: digest: sha256:" in pushed.stdout
    # The same layers again under another name: dockerd mounts them from the first repository.
    real_dockerd.docker("tag", "busybox:latest", f"{ours.host}/from/docker2:1")
    again = real_dockerd.docker("push", f"{ours.host}/from/docker2:1")
    assert "Mounted from from/docker" in again.stdout
    real_dockerd.docker("rmi", tools, f"{ours.host}/from/docker2:1", hello)
    assert "Downloaded newer image" in real_dockerd.docker("pull", f"{ours.host}/from/docker2:1").stdout
    real_dockerd.docker("rmi", f"{ours.host}/from/docker2:1")


def test_ctr_pulls_pushes_and_runs(ours: OurRegistry, real_containerd: RealContainerd) -> None:
    hello, copy = f"{ours.host}/library/hello-world:latest", f"{ours.host}/from/ctr:1"
    real_containerd.ctr("images", "pull", "--plain-http", "--all-platforms", hello)
    output = real_containerd.ctr("run", "--rm", hello, f"{real_containerd.namespace}-hello").stdout
    assert output.startswith("Hello from Cutaway!")
    real_containerd.ctr("images", "tag", hello, copy)
    real_containerd.ctr("images", "push", "--plain-http", copy)
    real_containerd.ctr("images", "rm", "--sync", copy, hello)
    real_containerd.ctr("images", "pull", "--plain-http", copy)
    assert copy in real_containerd.ctr("images", "ls", "-q").stdout
    real_containerd.ctr("images", "rm", "--sync", copy)
