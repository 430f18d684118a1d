"""Images of many makers, pulled by our engine, by ctr into containerd, and by dockerd: the same trees.

Names, types, modes, owners, times to the nanosecond, attributes, links and content of every file, as a
container would see them: the layers stacked up.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from containerd import layers, trees
from containerd.layers import Tar
from containerd.test_unpack_as_containerd import rich_tree
from engine.engine_stack import NAMESPACE
from engine.test_images_of_others import Tools
from support.images import Image, Layer, busybox_image
from support.netns import NetNs
from support.peers import PEERS, need
from support.stack import Containerd, OurContainerd, OurEngine, RealContainerd, RealDockerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers, pytest.mark.xdist_group("image-trees")]

Tree = dict[str, tuple[object, ...]]

LARGE = 400_000  # bytes; larger files are left out of Debian's root

# What a builder's step may do to the layers below.
CHANGES = """
rm -r /gone /usr/bin/wall; chmod 4711 /usr/bin/su; chown 7:8 /etc/passwd; mkdir -m 2750 /opaque/new
rm -r /opaque; mkdir /opaque; echo new > /opaque/above; ln /keep /hard; ln -s ../keep /etc/soft
mv /owned /moved; rm /empty; mkdir /empty; mkfifo /pipe; mknod /zero c 1 5; touch -d 2001-02-03 /keep
"""


@dataclass
class Rig:
    """Who pulls, from where, and the tools that make images."""

    registry: RealRegistry
    engine: OurEngine
    ours: OurContainerd
    real: RealContainerd
    dockerd: RealDockerd
    tools: Tools
    folder: Path

    def pushed(self, image: Image, name: str, *, docker: bool = False) -> str:
        self.registry.push(image, name, "1", docker=docker)
        return f"{self.registry.host}/{name}:1"

    def trees(self, name: str) -> dict[str, Tree]:
        """What each of the three makes of an image."""
        latest = time.time_ns()
        self.engine.docker("pull", name)
        self.real.ctr("images", "pull", "--plain-http", name)
        self.dockerd.docker("pull", name)
        found = {}
        for who, mount in (
            ("ours", by_ctr(self.ours, NAMESPACE, name, self.folder)),
            ("containerd", by_ctr(self.real, "", name, self.folder)),
            ("dockerd", by_graph(self.dockerd, name, self.folder)),
        ):
            with mount as root:
                found[who] = trees.describe(root, latest)
        self.engine.docker("rmi", name)
        self.real.ctr("images", "rm", "--sync", name)
        self.dockerd.docker("rmi", name)
        return found


@contextmanager
def by_ctr(containerd: Containerd, namespace: str, name: str, folder: Path) -> Iterator[Path]:
    """An image's layers as containerd stacks them."""
    root = folder / "root"
    root.mkdir()
    containerd.ctr("images", "mount", name, str(root), namespace=namespace)
    try:
        yield root
    finally:
        containerd.ctr("images", "unmount", "--rm", str(root), namespace=namespace)
        root.rmdir()


@contextmanager
def by_graph(dockerd: RealDockerd, name: str, folder: Path) -> Iterator[Path]:
    """An image's layers where dockerd says they are, stacked by hand."""
    said = json.loads(dockerd.docker("image", "inspect", "-f", "{{json .GraphDriver.Data}}", name).stdout)
    root, empty = folder / "root", folder / "empty"
    root.mkdir()
    empty.mkdir()
    lower = ":".join(filter(None, (said["UpperDir"], said.get("LowerDir", ""), str(empty))))
    subprocess.run(["mount", "-t", "overlay", "-o", f"ro,lowerdir={lower}", "graph", root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)
        root.rmdir()
        empty.rmdir()


@pytest.fixture(scope="module")
def rig(
    session_base: Path,
    session_netns: NetNs,
    registry: RealRegistry,
    real_containerd: RealContainerd,
    real_dockerd: RealDockerd,
) -> Iterator[Rig]:
    need("root", "docker", "ctr", "busybox", "umoci", "buildah", "podman", "skopeo")
    folder = session_base / "made"
    folder.mkdir()
    with (
        OurContainerd(session_base, session_netns, name="tree-c") as ours,
        OurEngine(session_base, session_netns, ours.address, ["--bridge", "none"], name="tree-e") as engine,
    ):
        tools = Tools(folder, session_netns)
        yield Rig(registry, engine, ours, real_containerd, real_dockerd, tools, folder)


def plain_layer() -> bytes:
    """A layer that describes every folder and no name twice: dockerd 20.10 takes no other."""
    tar = Tar().folder("etc").folder("usr").folder("usr/bin").folder("gone").folder("opaque").folder("owned")
    tar.add("gone/file", data=b"1").add("opaque/below", data=b"2").add("keep", data=b"3").add("empty")
    tar.add("usr/bin/wall", data=b"4", mode=0o2755, owner=(0, 5)).add("usr/bin/su", data=b"5", mode=0o4755)
    tar.add("etc/passwd", data=b"root:x:0:0:\n").add("owned/file", data=b"6", owner=(1000, 1001))
    tar.add("usr/bin/sudo", tarfile.LNKTYPE, link="usr/bin/su", mode=0o4755)
    pax = {"SCHILY.xattr.security.capability": layers.CAPABILITY, "SCHILY.xattr.user.note": "hello"}
    return tar.add("usr/bin/ping", data=b"7", mode=0o755, pax=pax).bytes()


def repeated(rig: Rig) -> str:
    """The same layers again: every layer counts, also one that the image has further down."""
    below, above = plain_layer(), Tar().add(".wh.gone").folder("opaque").add("opaque/.wh..wh..opq")
    above.add("opaque/above", data=b"1").add("keep", data=b"changed").add("usr/.wh.bin")
    again = above.bytes()
    stack = (below, again, below, again, again, below)
    return rig.pushed(Image(tuple(map(Layer, stack)), {"Cmd": ["x"]}), "trees/repeated", docker=True)


def debian(rig: Rig) -> str:
    """A root of Debian's packages, as they are unpacked on this machine, but for their large files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder, folders, files in os.walk(PEERS / "root"):
            for name in sorted((*folders, *files)):
                path = Path(folder, name)
                if path.is_symlink() or path.is_dir() or path.stat().st_size < LARGE:
                    tar.add(path, path.relative_to(PEERS / "root"), recursive=False, filter=as_packaged)
    return rig.pushed(Image((Layer(packed.getvalue()),), {"Cmd": ["x"]}), "trees/debian")


def as_packaged(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The packages' set-id bits, which are dropped where they are unpacked, and owners."""
    entry.uid = entry.gid = 0
    if os.path.basename(entry.name) in ("newuidmap", "newgidmap", "dbus-daemon-launch-helper"):
        entry.mode |= 0o4000
        entry.gid = 101
    return entry


def by_umoci(rig: Rig) -> str:
    root, layout = rig.folder / "umoci-tree", str(rig.folder / "umoci")
    rich_tree(root)
    (root / "socket").unlink()  # umoci refuses it, all others pass over it
    rig.tools.run("umoci", "init", "--layout", layout)
    rig.tools.run("umoci", "new", "--image", f"{layout}:1")
    rig.tools.run("umoci", "insert", "--image", f"{layout}:1", str(root), "/tree")
    rig.tools.run("umoci", "insert", "--image", f"{layout}:1", "--opaque", str(root / "sticky"), "/tree/sub")
    rig.tools.run("umoci", "insert", "--image", f"{layout}:1", "--whiteout", "/tree/sparse")
    rig.tools.skopeo(f"oci:{layout}:1", f"docker://{rig.registry.host}/trees/umoci:1")
    return f"{rig.registry.host}/trees/umoci:1"


def by_buildah(rig: Rig) -> str:
    root = rig.folder / "buildah-tree"
    rich_tree(root)
    container = rig.tools.storage("buildah", "from", "scratch").strip()
    rig.tools.storage("buildah", "copy", container, str(root), "/")
    rig.tools.storage("buildah", "config", "--cmd", "x", container)
    rig.tools.storage("buildah", "commit", "--rm", container, "tree")
    name = f"{rig.registry.host}/trees/buildah:1"
    rig.tools.storage("buildah", "push", "--tls-verify=false", "tree", f"docker://{name}")
    return name


def by_podman(rig: Rig) -> str:
    file = rig.folder / "podman.tar"
    file.write_bytes(layers.base())
    rig.tools.storage("podman", "import", str(file), "imported:1")
    name = f"{rig.registry.host}/trees/podman:1"
    # From the same storage: podman's own push reads the machine's policy.
    rig.tools.storage("buildah", "push", "--tls-verify=false", "imported:1", f"docker://{name}")
    return name


def committed(engine: OurEngine | RealDockerd, rig: Rig, name: str) -> str:
    """What a container has changed."""
    name = f"{rig.registry.host}/trees/{name}:1"
    base = Image((Layer(plain_layer()), *busybox_image().layers), {"Cmd": ["sh"]})
    engine.load(base, "base:1")
    engine.docker("run", "--name", "made", "--network", "none", "base:1", "sh", "-ec", CHANGES)
    engine.docker("commit", "made", name)
    engine.docker("push", name)
    engine.docker("rm", "made")
    engine.docker("rmi", name, "base:1")
    return name


MAKERS: dict[str, Callable[[Rig], str]] = {
    "repeated": repeated,
    "debian": debian,
    "umoci": by_umoci,
    "buildah": by_buildah,
    "podman": by_podman,
    "dockerd": lambda rig: committed(rig.dockerd, rig, "dockerd"),
    "ours": lambda rig: committed(rig.engine, rig, "ours"),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_an_image_is_the_same_whoever_pulls_it(rig: Rig, maker: str) -> None:
    found = rig.trees(MAKERS[maker](rig))
    ours = found.pop("ours")
    for who, tree in found.items():
        differing = {
            name: (ours.get(name), tree.get(name))
            for name in sorted({*ours, *tree})
            if ours.get(name) != tree.get(name)
        }
        assert differing == {}, who
    assert len(ours) > 5
