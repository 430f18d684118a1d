"""Whom Docker's `User` strings mean in an image, and what a hostile image gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutaway.engine.rootfs_view import _walk, open_in_root
from cutaway.engine.userdb import LARGEST_FILE, Identity, resolve
from cutaway.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted

PASSWD = """\
# comment:x:5:5
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1001:Bob:/home/bob:/bin/sh
broken:x:abc:0::/:/bin/sh
short:x
bob:x:2000:2001:the second:/:/bin/sh
1234:x:77:77::/home/digits:
"""
GROUP = """\
root:x:0:
bobs:x:1001:
audio:x:29:bob, carol
wheel:x:10:root,bob
broken:x:z:bob
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.fixture
def look(image: Path) -> Iterator[Callable[..., Identity]]:
    root = os.open(image, os.O_PATH | os.O_DIRECTORY)
    yield lambda user, *groups: resolve(root, user, groups)
    os.close(root)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "others", "home"),
    [
        ("", 0, 0, (10,), "/root"),
        ("root", 0, 0, (10,), "/root"),
        ("0", 0, 0, (10,), "/root"),
        ("0:0", 0, 0, (), "/root"),
        ("bob", 1000, 1001, (29, 10), "/home/bob"),
        ("1000", 1000, 1001, (29, 10), "/home/bob"),
        ("bob:audio", 1000, 29, (), "/home/bob"),
        ("bob:4711", 1000, 4711, (), "/home/bob"),
        ("4711", 4711, 0, (), "/"),
        ("4711:4712", 4711, 4712, (), "/"),
        ("4711:wheel", 4711, 10, (), "/"),
        (":audio", 0, 29, (), "/root"),
    ],
)
def test_who_it_is(
    look: Callable[..., Identity], user: str, uid: int, gid: int, others: tuple[int, ...], home: str
) -> None:
    assert look(user) == Identity(uid, gid, others, home)


def test_group_add(look: Callable[..., Identity]) -> None:
    assert look("5", "audio", "99", "10").additional_gids == (29, 99, 10)
    assert look("bob", "audio").additional_gids == (29, 10)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("carol", "unable to find user carol: no matching entries in passwd file"),
        ("broken", "unable to find user broken: no matching entries in passwd file"),
        ("-1", "unable to find user -1"),
        ("bob:choir", "unable to find group choir: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("1:2147483648", "uids and gids must be in range 0-2147483647"),
        ("99999999999999999999", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_who_it_cannot_be(look: Callable[..., Identity], user: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        look(user)


def test_without_the_files_numbers_still_work(image: Path, look: Callable[..., Identity]) -> None:
    (image / "etc/passwd").unlink()
    (image / "etc/group").unlink()
    assert look("") == Identity(0, 0)
    assert look("5:6") == Identity(5, 6)
    with pytest.raises(InvalidArgument, match="unable to find user root"):
        look("root")


def test_links_count_from_the_image_root(image: Path, look: Callable[..., Identity]) -> None:
    (image / "real").write_text("eve:x:66:66::/:\n")
    (image / "etc/passwd").unlink()
    (image / "etc/passwd").symlink_to("/../../../real")
    assert look("eve").uid == 66


@pytest.mark.parametrize("target", ["/proc/self/environ", "../../../../../../etc/hostname"])
def test_links_do_not_leave_the_image(image: Path, look: Callable[..., Identity], target: str) -> None:
    (image / "etc/passwd").unlink()
    (image / "etc/passwd").symlink_to(target)
    with pytest.raises(InvalidArgument, match="unable to find user bob"):
        look("bob")


def test_a_fifo_does_not_make_us_wait(image: Path, look: Callable[..., Identity]) -> None:
    (image / "etc/passwd").unlink()
    os.mkfifo(image / "etc/passwd")
    with pytest.raises(PermissionDenied, match="etc/passwd: not a regular file"):
        look("bob")


def test_a_folder_is_not_read(image: Path, look: Callable[..., Identity]) -> None:
    (image / "etc/group").unlink()
    (image / "etc/group").mkdir()
    with pytest.raises(PermissionDenied, match="not a regular file"):
        look("bob")


def test_an_endless_file_ends(image: Path, look: Callable[..., Identity]) -> None:
    os.truncate(image / "etc/passwd", LARGEST_FILE + 1)
    with pytest.raises(ResourceExhausted, match="larger than 8 MiB"):
        look("bob")


def test_bytes_that_are_no_text(image: Path, look: Callable[..., Identity]) -> None:
    (image / "etc/passwd").write_bytes(b"\xff\xfe:x:1:1\nbob:x:3:4::/:\n\0\0\0")
    assert look("bob").uid == 3


def test_the_walk_for_kernels_without_openat2_follows_no_links(image: Path) -> None:
    (image / "link").symlink_to("etc")
    root = os.open(image, os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(_walk(root, "/etc/passwd", os.O_RDONLY))
        with pytest.raises(OSError, match="link"):
            _walk(root, "link/passwd", os.O_RDONLY)
        with pytest.raises(OSError, match="cross-device"):
            _walk(root, "etc/../../x", os.O_RDONLY)
        with pytest.raises(NotFound):
            open_in_root(root, "nothing/here")
    finally:
        os.close(root)
