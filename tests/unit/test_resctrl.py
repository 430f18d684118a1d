"""Intel RDT against a directory that looks like resctrl: few machines have the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument
from cutaway.linux import resctrl
from cutaway.oci.document import decode
from cutaway.oci.runtime_spec import IntelRdt
from cutaway.runc import intel_rdt


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("info/L3", "info/MB", "present/mon_groups", "mon_groups"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "info/last_cmd_status").write_text("ok\n")
    for group in (tmp_path, tmp_path / "present"):
        (group / "tasks").touch()
        (group / "schemata").write_text("    L3:0=00ff;1=7ff\n    MB:0= 20;1=100\n")
    return tmp_path


def rdt(**fields: Any) -> IntelRdt:
    return decode(IntelRdt, fields)


class Group(resctrl.Group):
    """A group whose directories get their files when they are made, as from the kernel."""

    def _mkdir(self, path: str) -> None:
        super()._mkdir(path)
        for name in ("tasks", "schemata"):
            (Path(path) / name).touch()
        (Path(path) / "mon_groups").mkdir()


def test_a_group_of_the_containers_own(root: Path) -> None:
    lines = intel_rdt.schemata(
        rdt(l3CacheSchema="L3:0=f", memBwSchema="MB:0=50", schemata=["L2:0=f0", "L3:1=1"])
    )
    assert lines == ["L3:0=f", "MB:0=50", "L2:0=f0", "L3:1=1"]
    group = Group(str(root), "c1", monitored=True)
    assert group.temporary() == [f"{root}/c1/mon_groups/c1", f"{root}/c1"]
    group.make(lines)
    group.enter(77)
    assert (root / "c1/schemata").read_text() == "L3:0=f\nMB:0=50\nL2:0=f0\nL3:1=1\n"
    assert [(root / name / "tasks").read_text() for name in ("c1", "c1/mon_groups/c1")] == ["77", "77"]
    assert group.made == [f"{root}/c1/mon_groups/c1", f"{root}/c1"]


def test_a_class_that_is_there_is_joined_and_stays(root: Path) -> None:
    for name in ("present", "/"):
        group = Group(str(root), "c1", name)
        group.make([])
        group.enter(78)
        assert group.temporary() == group.made == []
    assert (root / "present/tasks").read_text() == (root / "tasks").read_text() == "78"
    assert "00ff" in (root / "present/schemata").read_text()


@pytest.mark.parametrize("line", ["L3:0=ff", "L3:1=7FF;0=0ff", "MB:0=20", "L2:0=1"])
def test_shares_that_a_class_has_already(root: Path, line: str) -> None:
    Group(str(root), "c1", "present").make([line])


@pytest.mark.parametrize("line", ["L3:0=f", "L3:2=ff", "MB:0=2"])
def test_other_shares_of_a_class_that_is_there(root: Path, line: str) -> None:
    with pytest.raises(InvalidArgument, match=f"which does not match {line}"):
        Group(str(root), "c1", "present").make([line])


def test_a_class_that_must_be_there(root: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"clos dir not accessible \(must be pre-created"):
        Group(str(root), "c1", "absent").make([])
    assert not (root / "absent").exists()


def test_the_kernels_own_words(root: Path) -> None:
    (root / "info/last_cmd_status").write_text("Invalid mask\n")
    (root / "present/tasks").unlink()
    with pytest.raises(FailedPrecondition, match="no such file or directory, last_cmd_status: Invalid mask"):
        Group(str(root), "c1", "present").enter(1)


def test_groups_are_removed_once(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for _ in range(2):
        resctrl.remove([str(tmp_path / "one")])
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"closID": ".."}, 'invalid intelRdt.ClosID "..'),
        ({"closID": "a/b"}, 'invalid intelRdt.ClosID "a/b"'),
        ({"memBwSchema": "L3:0=1"}, "expected it to start with MB:"),
        ({"schemata": ["L3:0=1\nMB:0=1"]}, "must not contain newlines"),
    ],
)
def test_fields_that_make_no_sense(root: Path, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(CutawayError, match=why):
        intel_rdt.check(rdt(**fields), str(root))


@pytest.mark.parametrize(
    ("missing", "fields", "why"),
    [
        ("L3", {"l3CacheSchema": "L3:0=1"}, "Intel RDT/CAT is not enabled"),
        ("MB", {"memBwSchema": "MB:0=1"}, "Intel RDT/MBA is not enabled"),
    ],
)
def test_what_the_machine_has_not(root: Path, missing: str, fields: dict[str, Any], why: str) -> None:
    (root / "info" / missing).rmdir()
    with pytest.raises(CutawayError, match=why):
        intel_rdt.check(rdt(**fields), str(root))
    with pytest.raises(CutawayError, match="but Intel RDT is not enabled"):
        intel_rdt.check(rdt(**fields), "")
