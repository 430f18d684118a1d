"""`docker cp` against a container, or an archive, that wants to reach the host.

The races exchange a directory with a link to the host's place of the same name for as long as copies run:
what was looked at is never what is used, so a copy that works by path is led astray within a few rounds.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import tarfile
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cutaway.archive import packing, paths, unpacking
from cutaway.archive.unpacking import Rules
from cutaway.engine.root_tree import Point, Root, open_tree
from cutaway.errors import CutawayError, InvalidArgument

pytestmark = pytest.mark.root

ROUNDS = 300
RENAME_EXCHANGE = 2
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def root(place: Path) -> Iterator[int]:
    """A root file system with a directory in it, as a descriptor."""
    (place / "root/dir").mkdir(parents=True)
    (place / "root/dir/file").write_text("inside\n")
    fd = os.open(place / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@contextmanager
def exchanging(first: Path, second: Path) -> Iterator[None]:
    """Exchange two names over and over (renameat2(2)), in a process that has a core for itself."""
    names = (os.fsencode(first), os.fsencode(second))
    child = os.fork()
    if child == 0:
        while os.getppid() != 1:
            _libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def rounds(met: Sized) -> Iterator[int]:
    """At least so many, and more until the race was a race: some copies have met the directory."""
    for number in range(100 * ROUNDS):
        if number >= ROUNDS and len(met) >= 5:
            return
        yield number


def archive(*members: tuple[str, dict[str, Any], bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, values, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in values.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def contents(pieces: Iterator[bytes]) -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as opened:
        return [file.read() for m in opened if m.isreg() and (file := opened.extractfile(m))]


def as_it_was(outside: Path) -> bool:
    """Whether nobody has touched the host's piece."""
    return os.listdir(outside) == ["file"] and (outside / "file").read_text() == "host\n"


@pytest.mark.parametrize("climbs", [False, True])
def test_reading_while_a_directory_becomes_a_link(
    root: int, place: Path, outside: Path, climbs: bool
) -> None:
    """CVE-2018-15664."""
    link = place / "root/link"
    link.symlink_to(f"../../../../../{outside}" if climbs else outside)
    got: list[bytes] = []
    with exchanging(place / "root/dir", link):
        for _ in rounds(got):
            try:
                item = paths.open_in_root(root, "dir")
            except OSError:
                continue  # the link: what it names is not there in the root
            try:
                found = contents(packing.pack(item, "dir"))
            finally:
                os.close(item)
            assert b"host\n" not in found
            got += found
    assert got, "no copy met the directory: the race was none"


def test_reading_below_while_a_directory_becomes_a_link(root: int, place: Path, outside: Path) -> None:
    inner = place / "root/dir/inner"
    inner.mkdir()
    (inner / "file").write_text("inside\n")
    (place / "root/dir/link").symlink_to(outside)
    item = paths.open_in_root(root, "dir")
    try:
        with exchanging(inner, place / "root/dir/link"):
            for _ in range(ROUNDS):
                assert b"host\n" not in contents(packing.pack(item, "dir"))
    finally:
        os.close(item)


@pytest.mark.parametrize("climbs", [False, True])
def test_writing_while_a_directory_becomes_a_link(
    root: int, place: Path, outside: Path, climbs: bool
) -> None:
    link = place / "root/link"
    link.symlink_to(f"../../../../../{outside}" if climbs else outside)
    written: list[bool] = []
    with exchanging(place / "root/dir", link):
        for _ in rounds(written):
            try:
                unpacking.unpack(archive(("sub/new", {}, b"x"), ("file", {}, b"x")), root, "/dir", Rules())
            except CutawayError:
                continue
            written.append(True)
    assert as_it_was(outside)
    assert written, "no copy was ever made: the race was none"


def test_a_file_that_becomes_a_fifo_or_a_device_is_not_opened(root: int, place: Path) -> None:
    os.mkfifo(place / "root/fifo")
    with exchanging(place / "root/dir/file", place / "root/fifo"):
        item = paths.open_in_root(root, "dir")
        try:
            for _ in range(ROUNDS):  # it would wait for ever
                b"".join(packing.pack(item, "dir"))
        finally:
            os.close(item)


ESCAPES: dict[str, tuple[tuple[str, dict[str, Any], bytes], ...]] = {
    "name above": (("../outside/file", {}, b"x"),),
    "name above in between": (("dir/../../../outside/file", {}, b"x"),),
    "symbolic link, then through it": (
        ("way", {"type": tarfile.SYMTYPE, "linkname": "../../outside"}, b""),
        ("way/file", {}, b"x"),
    ),
    "hard link above": (("way", {"type": tarfile.LNKTYPE, "linkname": "../../outside/file"}, b""),),
    "hard link absolute, written through": (
        ("way", {"type": tarfile.LNKTYPE, "linkname": "../../../../../etc/hostname"}, b""),
        ("way", {}, b"x"),
    ),
    "zero in a name": (("x", {"pax_headers": {"path": "a\0b"}}, b"x"),),
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_archives_that_lead_out(root: int, outside: Path, escape: str) -> None:
    with pytest.raises(InvalidArgument):
        unpacking.unpack(archive(*ESCAPES[escape]), root, "/dir", Rules())
    assert as_it_was(outside)


@pytest.mark.parametrize("kind", ["absolute", "climbing"])
def test_links_of_the_container_on_an_entry_s_way(root: int, place: Path, outside: Path, kind: str) -> None:
    target = outside if kind == "absolute" else f"../../../../../../{outside}"
    (place / "root/dir/way").symlink_to(target)
    unpacking.unpack(archive(("way/file", {}, b"x")), root, "/dir", Rules())
    assert as_it_was(outside)
    # Where the link leads inside of the root, which is where the container's own programs would come to.
    assert (place / f"root/{outside}/file").read_bytes() == b"x"


def test_an_absolute_link_in_an_archive_stays_in_the_root(root: int, place: Path, outside: Path) -> None:
    way = ("way", {"type": tarfile.SYMTYPE, "linkname": os.fspath(outside)}, b"")
    unpacking.unpack(archive(way, ("way/file", {}, b"x")), root, "/dir", Rules())
    assert as_it_was(outside)


def test_nothing_of_proc_is_followed(root: int, place: Path) -> None:
    """A magic link leads out of any root; where /proc is bound into the container one is there."""
    (place / "root/proc").mkdir()
    points = [Point("/proc", "/proc")]
    with open_tree(Root([_Bind(place / "root")]), points) as tree:
        for path in (f"proc/{os.getpid()}/root/etc/passwd", f"proc/{os.getpid()}/cwd", "proc/self/exe"):
            with pytest.raises(OSError):
                paths.open_in_root(tree, path, os.O_RDONLY)


class _Bind:
    """containerd's description of a bind mount."""

    type = "bind"
    options = ("rbind", "rw")

    def __init__(self, source: Path) -> None:
        self.source = os.fspath(source)


@pytest.mark.parametrize("target", ["absolute", "climbing"])
def test_a_volume_whose_place_is_a_link_is_mounted_inside(place: Path, outside: Path, target: str) -> None:
    (place / "root").mkdir()
    (place / "volume").mkdir()
    (place / "volume/secret").write_text("volume")
    (place / "root/data").symlink_to(outside if target == "absolute" else f"../../../..{outside}")
    with open_tree(Root([_Bind(place / "root")]), [Point(str(place / "volume"), "/data")]) as tree:
        fd = paths.open_in_root(tree, "data/secret", os.O_RDONLY)
        assert os.read(fd, 100) == b"volume"
        os.close(fd)
        assert as_it_was(outside)
    assert str(place) not in Path("/proc/self/mountinfo").read_text()


BOMBS: dict[str, Callable[[], bytes]] = {
    "pax header": lambda: _special(b"x", 1 << 33),
    "long name": lambda: _special(b"L", 1 << 33),
    "special headers without end": lambda: _special(b"x", 0) * 10_000,
    "sparse map": lambda: _sparse(b"99999999\n"),
    "sparse map without a line": lambda: _sparse(b"9" * 512) + b"9" * (1 << 20),
    "sparse map that does not fit": lambda: _sparse(b"1\n0\n999999999999999\n"),
    "negative size": lambda: _header(b"0", size=b"\xff" * 12),
    "huge size": lambda: _header(b"0", size=b"\x80" + b"\xff" * 11),
}


def _header(kind: bytes, size: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _special(kind: bytes, size: int) -> bytes:
    return _header(kind, b"\x80" + size.to_bytes(11, "big"))


def _sparse(data: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}
    return info.tobuf(tarfile.PAX_FORMAT) + data.ljust(512, b"\0")


@pytest.mark.parametrize("bomb", BOMBS)
def test_headers_that_promise_much_are_refused_before_they_cost_anything(root: int, bomb: str) -> None:
    class Endless:
        """The archive, and zeros for ever after."""

        taken = 0
        data = BOMBS[bomb]()

        def read(self, size: int = -1, /) -> bytes:
            piece = self.data[self.taken : self.taken + size].ljust(size, b"\0")
            self.taken += size
            return piece

    source = Endless()
    with pytest.raises(InvalidArgument):
        unpacking.unpack(source, root, "/dir", Rules())
    assert source.taken < 8 << 20
