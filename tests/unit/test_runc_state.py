"""The state on disk, and paths that never leave a root: as an ordinary user, in temporary directories."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound
from cutaway.linux import libc, paths, processes
from cutaway.runc import state


def container(root: Path, name: str = "one", **values: Any) -> state.Container:
    state.reserve(os.fspath(root), name)
    record = state.Record(
        oci_version="1.2.0", id=name, bundle="/b", rootfs="/b/rootfs", created="now", **values
    )
    found = state.Container(os.fspath(root), record)
    found.save()
    return found


def own_start() -> int:
    found = processes.status(os.getpid())
    assert found is not None
    return found[1]


def test_what_is_saved_is_loaded_and_private(tmp_path: Path) -> None:
    saved = container(tmp_path, pid=7, annotations={"a": "b"})
    assert state.load(os.fspath(tmp_path), "one").record == saved.record
    assert stat.S_IMODE((tmp_path / "one/state.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o711


def test_a_name_is_taken_by_whoever_comes_first(tmp_path: Path) -> None:
    container(tmp_path)
    with pytest.raises(AlreadyExists, match="container with given ID already exists"):
        state.reserve(os.fspath(tmp_path), "one")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "x" * 2000, "a\n"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidArgument):
        state.check_id(name)


def test_a_damaged_state_is_reported_by_its_path(tmp_path: Path) -> None:
    container(tmp_path)
    (tmp_path / "one/state.json").write_text('{"id": 3')
    with pytest.raises((InvalidArgument, DataLoss), match=r"one/state\.json"):
        state.load(os.fspath(tmp_path), "one")


def test_status_goes_by_the_process_not_by_what_is_written(tmp_path: Path) -> None:
    found = container(tmp_path, pid=os.getpid(), start_time=own_start(), ready=True)
    assert found.status() == "running"
    Path(found.fifo).touch()
    assert found.status() == "created"
    found.record.ready = False
    assert found.status() == "creating"


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    found = container(tmp_path, pid=os.getpid(), start_time=own_start() + 1, ready=True)
    assert found.status() == "stopped"


def test_a_zombie_has_stopped(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        started = processes.status(child.pid)
        assert started is not None
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        found = container(tmp_path, pid=child.pid, start_time=started[1], ready=True)
        assert found.status() == "stopped"


def test_a_container_being_made_is_creating_while_its_maker_holds_the_lock(tmp_path: Path) -> None:
    found = container(tmp_path)
    code = (
        "import sys; from cutaway.runc.state import Lock; Lock(sys.argv[1]).take() or print(flush=True); "
        "sys.stdin.read()"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", code, found.directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with maker:
        assert maker.stdout is not None
        maker.stdout.readline()
        assert found.status() == "creating"
        maker.kill()
    assert found.status() == "stopped"


def test_remove_takes_it_all_and_may_be_repeated(tmp_path: Path) -> None:
    found = container(tmp_path)
    found.save_config("{}")
    os.mkfifo(found.fifo)
    state.remove(os.fspath(tmp_path), "one")
    state.remove(os.fspath(tmp_path), "one")
    assert state.ids(os.fspath(tmp_path)) == []
    with pytest.raises(NotFound):
        state.load(os.fspath(tmp_path), "one")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("link", "path", "made"),
    [
        (None, "a/b/c", "a/b/c"),
        (None, "/a/../../b", "b"),
        (("l", "/real"), "l/x", "real/x"),
        (("l", "../../outside"), "l/x", "outside/x"),
        (("l", "missing/deep"), "l/x", "missing/deep/x"),
        (("l", "/"), "l/l/x", "x"),
    ],
)
def test_directories_are_made_inside_the_root(
    root: Path, link: tuple[str, str] | None, path: str, made: str
) -> None:
    if link:
        (root / link[0]).symlink_to(link[1])
    fd = os.open(root, paths.O_PATH)
    os.close(paths.make_directories(fd, path))
    os.close(fd)
    assert (root / made).is_dir()
    assert not os.listdir(root.parent / "outside")


def test_a_file_is_made_at_the_end_of_a_dangling_link(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/resolv.conf").symlink_to("../run/stub.conf")
    fd = os.open(root, paths.O_PATH)
    os.close(paths.make_file(fd, "/etc/resolv.conf"))
    os.close(fd)
    assert (root / "run/stub.conf").is_file()


def test_a_loop_of_links_ends(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    fd = os.open(root, paths.O_PATH)
    with pytest.raises(OSError, match="too many levels"):
        paths.make_directories(fd, "a/x")
    os.close(fd)


def test_a_file_in_the_way_is_named(root: Path) -> None:
    (root / "file").touch()
    fd = os.open(root, paths.O_PATH)
    with pytest.raises(NotADirectoryError) as caught:
        paths.make_directories(fd, "/file/sub")
    os.close(fd)
    assert libc.reason(caught.value) == "mkdir /file/sub: not a directory"


def test_without_links_none_is_followed(root: Path) -> None:
    (root / "real").mkdir()
    (root / "link").symlink_to("real")
    fd = os.open(root, paths.O_PATH)
    with pytest.raises(OSError, match="too many levels"):
        paths.open_in_root(fd, "/link", links=False)
    os.close(paths.open_in_root(fd, "/link"))
    os.close(fd)
