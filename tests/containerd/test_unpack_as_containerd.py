"""Layers of all sorts, unpacked by a real containerd and by ours: every file is the same in every way.

Both apply the same blob, over seam 3, into directories of the test's own: as the upper directory of an
overlay, where whiteouts are kept, and merged into what is there, where they remove things.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from containerd import layers, trees
from containerd.client import Client, digest_of
from containerd.layers import Tar
from cutaway.pb.mount_pb2 import Mount
from support.netns import NetNs
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers, pytest.mark.xdist_group("unpack-as-containerd")]

FILE, HARD, LINK, FOLDER = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE

Tree = dict[str, tuple[object, ...]]


@dataclass
class Side:
    """A daemon, and where it has unpacked."""

    client: Client
    place: Path
    known: set[str] = field(default_factory=set, repr=False)

    def apply(self, layer: bytes, below: Path, target: Path, overlay: bool) -> None:
        """Raises `grpc.RpcError` where it is refused."""
        digest = digest_of(layer)
        if digest not in self.known:
            self.known.add(self.client.ingest(layer))
        options = [f"upperdir={target}", f"lowerdir={below}", f"workdir={target.parent / 'work'}"]
        mount = (
            Mount(type="overlay", source="overlay", options=options)
            if overlay
            else Mount(type="bind", source=str(target), options=["rw", "rbind"])
        )
        self.client.apply(digest, [mount])


@dataclass
class Pair:
    """Ours and the real one, beside each other."""

    ours: Side
    real: Side
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def compare(self, *stack: bytes, overlay: bool) -> Tree | None:
        """Unpack layers upon one another on both sides; return what comes of the last, None if refused."""
        number, results = next(self.numbers), []
        for side in (self.ours, self.real):
            place = side.place / str(number)
            (place / "work").mkdir(parents=True)
            below = place / "nothing"
            below.mkdir()
            target = place / "merged"
            try:
                for level, layer in enumerate(stack):
                    if overlay:
                        target = place / str(level)
                    target.mkdir(exist_ok=True)
                    os.utime(target, ns=(0, 0))
                    side.apply(layer, below, target, overlay)
                    below = target
                results.append(trees.describe(target))
            except grpc.RpcError as error:
                assert error.code() is not grpc.StatusCode.UNAVAILABLE, error.details()
                results.append(error.details())
            shutil.rmtree(place)
        assert _differences(*results) == {}
        return results[0] if isinstance(results[0], dict) else None


def _differences(ours: Tree | str, real: Tree | str) -> dict[str, object]:
    if isinstance(ours, str) or isinstance(real, str):
        refused = isinstance(ours, str) and isinstance(real, str)
        return {} if refused else {"ours": str(ours)[:300], "containerd": str(real)[:300]}
    return {
        name: (ours.get(name), real.get(name))
        for name in sorted({*ours, *real})
        if ours.get(name) != real.get(name)
    }


@pytest.fixture(scope="module")
def pair(session_base: Path, session_netns: NetNs, real_containerd: RealContainerd) -> Iterator[Pair]:
    with ExitStack() as stack:
        daemon = stack.enter_context(OurContainerd(session_base, session_netns, name="unp"))
        sides = []
        for name, address in (("o", daemon.address), ("r", real_containerd.address)):
            client = stack.enter_context(Client.leased(address, "unpack"))
            sides.append(Side(client, session_base / "unpacked" / name))
        ours, real = sides
        yield Pair(ours, real)


@pytest.mark.parametrize("overlay", [True, False])
def test_rich_layers(pair: Pair, overlay: bool) -> None:
    found = pair.compare(layers.base(), layers.changes(), layers.more(), overlay=overlay)
    assert found and "opaque/again" in found


def rich_tree(root: Path) -> None:
    """What tar programs meet on disks."""
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        for at in (0, 1 << 20, 5 << 20):
            file.seek(at)
            file.write(b"data" * 1024)
        file.truncate(8 << 20)
    with (root / "hole").open("wb") as file:
        file.truncate(1 << 20)
    (root / "setuid").write_bytes(b"#!")
    os.chown(root / "setuid", 33, 44)
    os.chmod(root / "setuid", 0o6755)
    os.setxattr(root / "setuid", "user.note", b"\0bytes\xff\n=")
    (root / "capable").write_bytes(b"#!")
    os.setxattr(root / "capable", "security.capability", layers.CAPABILITY.encode())
    folder = root / ("long " * 20) / ("n" * 200) / "\u00e9 \u2603"
    folder.mkdir(parents=True)
    (folder / "new\nline").write_text("x")
    (folder / "back\\slash").symlink_to("t" * 300)
    os.link(folder / "new\nline", root / "hard")
    (root / "to hard").symlink_to("hard")
    os.link(root / "to hard", root / "hard to link", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.mknod(root / "large", 0o060600, os.makedev(259, 70000))
    (root / "sticky").mkdir(0o777)
    os.chmod(root / "sticky", 0o3777)
    os.setxattr(root / "sticky", "user.on-a-folder", b"1")
    for number, name in enumerate(sorted(os.listdir(root))):
        os.utime(root / name, ns=(1, 1_500_000_000_000_000_001 + number), follow_symlinks=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))


@pytest.mark.parametrize(
    "form",
    [
        "--format=gnu",
        "--format=posix --sparse --sparse-version=0.0 --xattrs --xattrs-include=*",
        "--format=posix --sparse --sparse-version=0.1 --xattrs --xattrs-include=*",
        "--format=posix --sparse --sparse-version=1.0 --xattrs --xattrs-include=*",
    ],
)
def test_what_gnu_tar_packs(pair: Pair, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rich_tree(tmp_path / "tree")
    packed = subprocess.run(
        ["tar", "-c", "--numeric-owner", *form.split(), "-C", "tree", "."], capture_output=True, check=True
    )
    assert b"socket ignored" in packed.stderr
    found = pair.compare(packed.stdout, overlay=True)
    assert found is not None and "socket" not in found
    wanted = trees.describe(tmp_path / "tree")
    if "xattrs" in form:
        for name in ("setuid", "capable", "sticky", "hole", "sparse", "large", "hard to link"):
            assert found[name] == wanted[name]
        assert found["setuid"][4] == os.lstat(tmp_path / "tree/setuid").st_mtime_ns


NAMES = st.sampled_from(
    ["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/a", "b/c/d", "./c", "a//b", "c/", "a/./a"]
)
TARGETS = st.sampled_from(["a", "b", "c", "a/b", "b/a", "/a", "../a", "..", "/", ".", "nothing"])
KINDS = st.sampled_from([FILE, FILE, FOLDER, FOLDER, LINK, HARD, tarfile.FIFOTYPE, tarfile.CHRTYPE])
# A layer that hides what it has itself, or implies, is refused by containerd alone.
HIDDEN = st.sampled_from(
    [(), ("d/.wh.a",), (".wh.d", ".wh.e"), ("d/e/.wh.f", ".wh.e"), ("d/e/.wh..wh..opq", "e/.wh..wh..opq")]
)


@dataclass(frozen=True)
class Made:
    """An entry as hypothesis has made it up."""

    name: str
    kind: bytes
    target: str
    mode: int
    owner: tuple[int, int]
    mtime: float
    size: int
    attribute: str

    def add(self, tar: Tar) -> None:
        pax = {"SCHILY.xattr.user.made": self.attribute} if self.attribute else None
        tar.add(
            self.name.rstrip("/") if self.kind != FOLDER else self.name,
            self.kind,
            bytes(self.size) if self.kind == FILE else b"",
            mode=self.mode,
            link=self.target if self.kind in (LINK, HARD) else "",
            owner=self.owner,
            device=(1, 3),
            mtime=self.mtime,
            pax=pax if self.kind in (FILE, FOLDER) else None,
        )


ENTRIES = st.builds(
    Made,
    NAMES,
    KINDS,
    TARGETS,
    st.integers(0, 0o7777),
    st.tuples(st.integers(0, (1 << 32) - 2), st.integers(0, 70_000)),
    st.sampled_from([0.0, 1.0, layers.MTIME, 1e9 + 0.25]),
    st.sampled_from([0, 1, 511, 512, 513]),
    st.text(st.characters(codec="ascii", min_codepoint=32), max_size=5),
)


def tar_of(entries: list[Made], *hidden: str) -> bytes:
    """Without what replaces a folder: containerd goes back to its path in the end, whatever is there."""
    tar = Tar()
    folders = set[str]()
    for name in hidden:
        tar.add(name)
    for entry in entries:
        path = os.path.normpath(entry.name)
        if entry.kind != FOLDER and path in folders:
            continue
        folders.update(map(str, Path(path).parents))
        if entry.kind in (FOLDER, LINK):  # through a link, its target may become one
            folders.update((path, os.path.normpath(entry.target).lstrip("/.")))
        entry.add(tar)
    return tar.bytes()


BELOW: Callable[[], bytes] = lambda: (  # noqa: E731
    Tar().folder("d").add("d/a").folder("d/e").add("d/e/f", data=b"x").folder("e").add("e/a").bytes()
)


@settings(
    max_examples=120,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # to shrink a failure takes minutes
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(ENTRIES, min_size=1, max_size=10), HIDDEN, st.booleans())
def test_any_layer(pair: Pair, entries: list[Made], hidden: tuple[str, ...], overlay: bool) -> None:
    """Upon a layer that has what the whiteouts hide; refused by both or the same from both."""
    pair.compare(BELOW(), tar_of(entries, *hidden), overlay=overlay)
