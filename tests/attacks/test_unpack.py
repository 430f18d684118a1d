"""Hostile layers: nothing outside of their directory is touched, and what is refused is named."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerd import layers, trees
from containerd.layers import Tar
from cutaway.containerd.unpack.apply import Applied, apply
from cutaway.containerd.unpack.limits import Limits
from cutaway.errors import CutawayError, DataLoss, InvalidArgument, ResourceExhausted

pytestmark = pytest.mark.root

LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
OPAQUE = "trusted.overlay.opaque"


@dataclass
class Place:
    """A directory to unpack into, and things around it that must stay as they are."""

    base: Path

    @property
    def root(self) -> Path:
        return self.base / "inner" / "fs"

    @property
    def secret(self) -> Path:
        return self.base / "secret"

    def unpack(
        self,
        layer: bytes,
        *,
        overlay: bool = False,
        lowers: Sequence[Path] = (),
        limits: Limits | None = None,
    ) -> Applied:
        with tempfile.TemporaryFile() as file:
            file.write(layer)
            file.flush()
            return apply(file.fileno(), self.root, lowers, overlay=overlay, limits=limits)

    def outside(self) -> dict[str, tuple[object, ...]]:
        names = dict.fromkeys(os.listdir(self.base), ())
        return {**names, **{f"secret/{name}": what for name, what in trees.describe(self.secret).items()}}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.root.mkdir(parents=True)
    place.secret.mkdir()
    (place.secret / "file").write_text("untouched")
    (place.secret / "folder").mkdir()
    before = place.outside()
    yield place
    assert place.outside() == before


REFUSED: dict[str, tuple[bytes, str]] = {
    "parent": (Tar().add("../evil").bytes(), "../evil"),
    "parent further in": (Tar().add("a/../../evil").bytes(), "a/../../evil"),
    "absolute": (Tar().add("/evil").bytes(), "/evil"),
    "only dots": (Tar().add("..", FOLDER).bytes(), ".."),
    "hard link upwards": (Tar().add("evil", HARD, link="../../secret/file").bytes(), "evil"),
    "hard link to nothing": (Tar().add("evil", HARD, link="not/there").bytes(), "not/there"),
    "hard link to the root": (Tar().add("evil", HARD, link="/").bytes(), "evil"),
    "hard link to itself": (Tar().add("evil").add("evil", HARD, link="evil").bytes(), "evil"),
    "hard link to a folder": (Tar().folder("f").add("evil", HARD, link="f").bytes(), "evil"),
    "whiteout of the folder": (Tar().add("a/.wh..").bytes(), "a/.wh.."),
    "whiteout of the parent": (Tar().add("a/.wh...").bytes(), "a/.wh..."),
    "whiteout of nothing": (Tar().add("a/.wh.").bytes(), "a/.wh."),
    "whiteout above": (Tar().add("../.wh.secret").bytes(), "../.wh.secret"),
    "through a file": (Tar().add("a").add("a/b").bytes(), "a/b"),
    "through a link to itself": (Tar().add("a", LINK, link="a").add("a/evil").bytes(), "a/evil"),
    "through links in a circle": (
        Tar().add("a", LINK, link="b").add("b", LINK, link="a").add("a/evil").bytes(),
        "a/evil",
    ),
    "name too long for the kernel": (Tar().add("n" * 300).bytes(), "nnn"),
    "path too long for the kernel": (Tar().add("/".join(["n" * 200] * 30)).bytes(), "nnn"),
    "empty link": (Tar().add("evil", LINK).bytes(), "evil"),
    "device out of range": (Tar().add("evil", tarfile.CHRTYPE, device=(5000, 1)).bytes(), "evil"),
    "bad attribute": (Tar().add("evil", pax={"SCHILY.xattr.security.capability": "x"}).bytes(), "evil"),
}


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("attack", REFUSED)
def test_refused_with_the_entrys_name(place: Place, attack: str, overlay: bool) -> None:
    layer, name = REFUSED[attack]
    with pytest.raises(CutawayError, match="layer entry") as caught:
        place.unpack(layer, overlay=overlay)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def link(name: str, target: object) -> Tar:
    return Tar().add(name, LINK, link=str(target))


CONTAINED: dict[str, Callable[[Path], Tar]] = {
    "link up, then through it": lambda out: link("a", "../../secret").add("a/evil", data=b"x"),
    "absolute link, then through it": lambda out: link("a", out).add("a/evil"),
    "link to the host's root": lambda out: link("a", "/").add(f"a{out}/evil"),
    "link to a file outside, then written": lambda out: link("a", out / "file").add("a"),
    "link outside, then a folder": lambda out: link("a", out).folder("a", 0o777),
    "link to /proc/self/root": lambda out: link("a", "/proc/self/root").add(f"a{out}/evil"),
    "link to a descriptor": lambda out: link("a", "/proc/self/fd/3").add("a/evil"),
    "chain of links": lambda out: link("a", "b/c").add("b", LINK, link="..").add("b/evil"),
    "hard link through a link": lambda out: link("a", out).add("evil", HARD, link="a/file"),
    "hard link to a link, then through it": lambda out: link("a", out).add("b", HARD, link="a").add("b/evil"),
    "whiteout through a link": lambda out: link("a", "../../secret").add("a/.wh.file"),
    "opaque through a link": lambda out: link("a", out).add("a/.wh..wh..opq"),
    "folder replaced by a link": lambda out: (
        Tar().folder("a").add("a/x").add("a", LINK, link=str(out)).add("a/file")
    ),
    "mode through a link": lambda out: Tar().add("a", LINK, link=f"{out}/file", mode=0o4777, owner=(1, 1)),
    "attribute through a link": lambda out: Tar().add(
        "a", LINK, link=f"{out}/file", pax={"SCHILY.xattr.user.evil": "x"}
    ),
}


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("attack", CONTAINED)
def test_stays_inside(place: Place, attack: str, overlay: bool) -> None:
    """Links mean what they would mean in a container; the fixture sees that nothing outside has changed."""
    with suppress(InvalidArgument):
        place.unpack(CONTAINED[attack](place.secret).bytes(), overlay=overlay)


@pytest.mark.parametrize("overlay", [False, True])
def test_through_links_that_lower_layers_left(place: Place, overlay: bool) -> None:
    os.symlink(place.secret, place.root / "a")
    place.unpack(Tar().add("a/evil", data=b"x").add("a/.wh.file").bytes(), overlay=overlay)
    assert (place.root / str(place.secret)[1:] / "evil").read_bytes() == b"x"


def test_a_device_is_made_as_it_is_described(place: Place) -> None:
    place.unpack(Tar().add("null", tarfile.CHRTYPE, device=(1, 3), mode=0o4666, owner=(7, 8)).bytes())
    found = (place.root / "null").lstat()
    assert stat.S_ISCHR(found.st_mode)
    assert (found.st_rdev, stat.S_IMODE(found.st_mode), found.st_uid) == (os.makedev(1, 3), 0o4666, 7)


def test_a_hard_link_leaves_the_files_capabilities(place: Place) -> None:
    pax = {"SCHILY.xattr.security.capability": layers.CAPABILITY}
    place.unpack(Tar().add("ping", pax=pax).add("ping6", HARD, link="ping").bytes())
    assert os.getxattr(place.root / "ping6", "security.capability") == layers.CAPABILITY.encode()


def test_the_kernels_attributes_cannot_be_set(place: Place) -> None:
    """A layer must not speak to overlayfs: an opaque or redirected directory shows other layers' files."""
    pax = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", f"SCHILY.xattr.{OPAQUE}": "y"}
    place.unpack(Tar().folder("a", pax=pax).bytes(), overlay=True)
    assert os.listxattr(place.root / "a") == []


def test_whiteouts_become_overlayfs_own(place: Place) -> None:
    layer = Tar().add("a/.wh.gone", owner=(3, 4)).add("b/.wh..wh..opq").add("c/keep").add("c/.wh.keep")
    layer.add(".wh.d").folder("d").add("d/new").folder("e").add(".wh.e")
    place.unpack(layer.bytes(), overlay=True)
    found = (place.root / "a/gone").lstat()
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev, found.st_uid, found.st_gid) == (True, 0, 3, 4)
    assert os.getxattr(place.root / "b", OPAQUE) == b"y"
    assert (place.root / "c/keep").is_file()
    # What the layers below have in a directory that is removed and made again must not shine through.
    assert os.getxattr(place.root / "d", OPAQUE) == os.getxattr(place.root / "e", OPAQUE) == b"y"
    assert not list(place.root.rglob(".wh.*"))


def test_whiteouts_remove_where_layers_are_merged(place: Place) -> None:
    place.unpack(Tar().add("a/x").add("a/y/z").add("b/x").add("b/y/z").add("c").bytes())
    place.unpack(Tar().add("b/new").add("b/y/new").add("a/.wh.y").add("b/.wh..wh..opq").add(".wh.c").bytes())
    files = {str(one.relative_to(place.root)) for one in place.root.rglob("*") if one.is_file()}
    assert files == {"a/x", "b/new", "b/y/new"}


def test_implied_folders_look_as_in_the_layer_below(place: Place, tmp_path: Path) -> None:
    lower = tmp_path / "inner" / "lower"
    (lower / "a/b").mkdir(parents=True)
    os.chown(lower / "a", 11, 12)
    os.chmod(lower / "a/b", 0o1751)
    place.unpack(Tar().add("a/b/c/file").bytes(), overlay=True, lowers=[lower])
    assert (place.root / "a").stat().st_uid == 11
    assert stat.S_IMODE((place.root / "a/b").stat().st_mode) == 0o1751
    assert stat.S_IMODE((place.root / "a/b/c").stat().st_mode) == 0o755


def test_implied_folders_do_not_follow_the_lower_layer_out(place: Place, tmp_path: Path) -> None:
    lower = tmp_path / "inner" / "lower"
    lower.mkdir()
    os.symlink(place.secret, lower / "a")
    os.chmod(place.secret / "folder", 0o700)
    place.unpack(Tar().add("a/folder/file").bytes(), overlay=True, lowers=[lower])
    assert stat.S_IMODE((place.root / "a/folder").stat().st_mode) == 0o755
    os.chmod(place.secret / "folder", 0o755)


def test_very_deep_trees_come_and_go(place: Place) -> None:
    deep = "/".join(["d"] * 1900)
    try:
        place.unpack(Tar().add(f"{deep}/file").bytes())
    finally:
        # Nothing else could: not even the removal of the test's own folder.
        place.unpack(Tar().add(".wh.d").bytes())
    assert list(place.root.iterdir()) == []


def test_bombs_are_stopped(place: Place) -> None:
    bomb = gzip.compress(Tar().add("zeros", data=bytes(20 << 20)).bytes())
    with pytest.raises(ResourceExhausted, match="decompression bomb"):
        place.unpack(bomb, limits=Limits(ratio_from=4 << 20))
    with pytest.raises(ResourceExhausted, match="larger than"):
        place.unpack(bomb, limits=Limits(size=4 << 20))
    many = Tar()
    for number in range(100):
        many.add(str(number))
    with pytest.raises(ResourceExhausted, match="entries"):
        place.unpack(many.bytes(), limits=Limits(entries=50))


def test_a_sparse_file_takes_no_more_room_than_it_has_data(place: Place) -> None:
    pax = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.name": "huge"}
    place.unpack(Tar().add("x", data=b"y", pax=pax).bytes())
    found = (place.root / "huge").stat()
    assert found.st_size == 1 << 40
    assert found.st_blocks < 100


def test_a_layer_cut_short_is_named(place: Place) -> None:
    with pytest.raises(DataLoss, match='truncated in "file"'):
        place.unpack(Tar().add("file", data=bytes(5000)).bytes()[:3000])


NAMES = st.sampled_from(
    ["a", "b", "a/b", "b/a", "a/../b", "../secret", "a/b/c", ".wh.a", "a/.wh..wh..opq", "b/.wh.a"]
)
TARGETS = st.sampled_from(
    ["a", "b", "..", "/", "../../secret", "../../secret/file", "a/b", "/a", "/proc/self/root"]
)
KINDS = st.sampled_from([tarfile.REGTYPE, FOLDER, LINK, LINK, HARD, tarfile.FIFOTYPE, tarfile.CHRTYPE])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, KINDS, TARGETS), min_size=1, max_size=8), st.booleans())
def test_no_mixture_of_entries_gets_out(
    place: Place, entries: list[tuple[str, bytes, str]], overlay: bool
) -> None:
    before = place.outside()
    tar = Tar()
    for name, kind, target in entries:
        tar.add(
            name,
            kind,
            link=target if kind in (LINK, HARD) else "",
            data=b"" if kind != tarfile.REGTYPE else b"x",
        )
    with suppress(CutawayError):
        place.unpack(tar.bytes(), overlay=overlay)
    assert place.outside() == before


def test_a_layer_of_everything_is_unpacked_whole(place: Place) -> None:
    done = place.unpack(gzip.compress(layers.base()))
    assert done.size == len(layers.base())
    assert (place.root / "usr/bin/su").stat().st_ino == (place.root / "usr/bin/sudo").stat().st_ino
    assert os.getxattr(place.root / "usr/bin/ping", "security.capability")[:4] == b"\x01\0\0\x02"
    assert (place.root / "usr/bin/through-a-link").read_bytes() == b"5"
