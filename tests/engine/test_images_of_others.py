"""Images made and carried by skopeo, podman, buildah, umoci and dockerd: pulled or loaded, and run."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.engine_stack import Stack
from support.images import busybox_image
from support.netns import Command, NetNs
from support.peers import need, peer, peer_path_env
from support.stack import RealDockerd, RealRegistry

POLICED = ("load", "save", "commit", "push", "import")  # verbs that would read /etc/containers/policy.json

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module")
def server(shared_stack: Stack) -> Iterator[RealRegistry]:
    need("docker-registry")
    with RealRegistry(shared_stack.engine.folder.parent, shared_stack.netns) as made:
        yield made


class Tools:
    """Peers that carry images, with their state below a folder, in the engine's network."""

    def __init__(self, folder: Path, netns: NetNs) -> None:
        self.folder = folder
        self.netns = netns
        self.env = {
            **peer_path_env(),
            "HOME": os.fspath(folder),
            "TMPDIR": os.fspath(folder),
            "XDG_RUNTIME_DIR": os.fspath(folder),
        }
        (folder / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        (folder / "containers.conf").write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024"]\n')
        self.env["CONTAINERS_CONF"] = os.fspath(folder / "containers.conf")

    def run(self, name: str, *words: str) -> str:
        need(name)
        command: Command = [peer(name), *words]
        done = self.netns.run(command, env=self.env, check=False, timeout=90)
        assert done.returncode == 0, f"{name} {' '.join(words)}: {done.stderr}"
        return done.stdout

    def skopeo(self, source: str, target: str, *flags: str) -> None:
        self.run("skopeo", "--policy", str(self.folder / "policy.json"), "copy",
                 "--src-tls-verify=false", "--dest-tls-verify=false", *flags, source, target)  # fmt: skip

    def storage(self, name: str, *words: str) -> str:
        """podman or buildah, on a storage of their own."""
        roots = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        driver = ["--storage-driver", "vfs"]
        policy = ["--signature-policy", str(self.folder / "policy.json")]
        verb, *rest = words
        return self.run(name, *roots, *driver, verb, *(policy if verb in POLICED else ()), *rest)


@pytest.fixture
def tools(base_dir: Path, shared_stack: Stack) -> Tools:
    return Tools(base_dir, shared_stack.netns)


def runs(stack: Stack, name: str) -> None:
    assert stack.docker("run", "--rm", name, "sh", "-c", "echo it runs") == "it runs\n"
    stack.docker("rmi", name)


def rootfs(folder: Path) -> Path:
    """A root file system with busybox in it."""
    with tarfile.open(fileobj=io.BytesIO(busybox_image().layers[0].tar)) as opened:
        opened.extractall(folder, filter="tar")
    return folder


@pytest.mark.parametrize("kind", ["docker", "oci", "docker-archive"])
def test_skopeo_copies_into_and_out_of_the_engine(
    engine_stack: Stack, tools: Tools, server: RealRegistry, kind: str
) -> None:
    """From each of its transports to docker-daemon:, and from there to it and back."""
    layout = busybox_image().oci_layout(tools.folder / "layout", "latest")
    image = {
        "docker": f"docker://{server.host}/team/bb:1",
        "oci": f"oci:{layout}:latest",
        "docker-archive": f"docker-archive:{tools.folder}/in.tar:in:1",
    }[kind]
    tools.skopeo(f"oci:{layout}:latest", image) if kind != "oci" else None
    out = {
        "docker": f"docker://{server.host}/out:1",
        "oci": f"oci:{tools.folder}/out:1",
        "docker-archive": f"docker-archive:{tools.folder}/out.tar:out:1",
    }[kind]
    host = engine_stack.engine.host
    tools.skopeo(image, "docker-daemon:carried:1", "--dest-daemon-host", host)
    assert engine_stack.docker("run", "--rm", "carried:1", "sh", "-c", "echo it runs") == "it runs\n"
    identity = engine_stack.docker("image", "inspect", "-f", "{{.Id}}", "carried:1")
    tools.skopeo("docker-daemon:carried:1", out, "--src-daemon-host", host)
    engine_stack.docker("rmi", "carried:1")
    tools.skopeo(out, "docker-daemon:again:1", "--dest-daemon-host", host)
    assert engine_stack.docker("image", "inspect", "-f", "{{.Id}}", "again:1") == identity
    runs(engine_stack, "again:1")


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeos_archives_are_loaded(engine_stack: Stack, tools: Tools, kind: str) -> None:
    layout = busybox_image().oci_layout(tools.folder / "layout", "latest")
    file = tools.folder / "made.tar"
    tools.skopeo(f"oci:{layout}:latest", f"{kind}:{file}:archived:1")
    assert engine_stack.docker("load", "-i", str(file)).endswith("archived:1\n")
    name = engine_stack.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    runs(engine_stack, next(entry for entry in name if entry.endswith("archived:1")))


def test_podman_loads_what_we_saved_and_saves_what_we_load(engine_stack: Stack, tools: Tools) -> None:
    ours, theirs = tools.folder / "ours.tar", tools.folder / "theirs.tar"
    engine_stack.docker("tag", "busybox", "example.org/carried:1")
    engine_stack.docker("save", "-o", str(ours), "example.org/carried:1")
    engine_stack.docker("rmi", "example.org/carried:1")
    assert "example.org/carried:1" in tools.storage("podman", "load", "-i", str(ours))
    for kind in ("docker-archive", "oci-archive"):
        tools.storage("podman", "save", "--format", kind, "-o", str(theirs), "example.org/carried:1")
        said = engine_stack.docker("load", "-i", str(theirs))
        assert said == "Loaded image: example.org/carried:1\n"
        runs(engine_stack, "example.org/carried:1")
        theirs.unlink()


def test_image_that_buildah_made_and_pushed(engine_stack: Stack, tools: Tools, server: RealRegistry) -> None:
    root = rootfs(tools.folder / "rootfs")
    container = tools.storage("buildah", "from", "scratch").strip()
    tools.storage("buildah", "copy", container, str(root), "/")
    tools.storage("buildah", "config", "--cmd", "sh", container)
    tools.storage("buildah", "commit", container, "built")
    name = f"{server.host}/buildah:1"
    tools.storage("buildah", "push", "--tls-verify=false", "built", f"docker://{name}")
    engine_stack.docker("pull", name)
    runs(engine_stack, name)


def test_image_that_umoci_packed(engine_stack: Stack, tools: Tools, server: RealRegistry) -> None:
    root, layout = rootfs(tools.folder / "rootfs"), str(tools.folder / "umoci")
    tools.run("umoci", "init", "--layout", layout)
    tools.run("umoci", "new", "--image", f"{layout}:1")
    tools.run("umoci", "insert", "--image", f"{layout}:1", str(root), "/")
    tools.run("umoci", "config", "--image", f"{layout}:1", "--config.cmd", "sh")
    name = f"{server.host}/umoci:1"
    tools.skopeo(f"oci:{layout}:1", f"docker://{name}")
    engine_stack.docker("pull", name)
    runs(engine_stack, name)


def test_image_that_dockerd_committed_and_saved(
    engine_stack: Stack, real_dockerd: RealDockerd, tools: Tools, server: RealRegistry
) -> None:
    real_dockerd.docker("run", "--name", "changed", "--network", "none", "busybox", "rm", "/etc/group")
    real_dockerd.docker("commit", "changed", "changed:1")
    file = tools.folder / "changed.tar"
    real_dockerd.docker("save", "-o", str(file), "changed:1")
    real_dockerd.docker("rm", "changed")
    real_dockerd.docker("rmi", "changed:1")
    engine_stack.docker("load", "-i", str(file))
    assert "group" not in engine_stack.docker("run", "--rm", "changed:1", "ls", "/etc")
    name = f"{server.host}/changed:1"
    engine_stack.docker("tag", "changed:1", name)
    engine_stack.docker("push", name)
    engine_stack.docker("rmi", name, "changed:1")
    engine_stack.docker("pull", name)
    runs(engine_stack, name)
