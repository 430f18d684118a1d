"""`cutaway cp` and `cutaway diff` do and say what docker's do, on the same daemon."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cli.side_by_side import CUTAWAY, SideBySide, plain
from support.peers import peer
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

CONTAINERS = {None: "cpd", CUTAWAY: "cpc"}
INSIDE = (
    "mkdir -p /s/sub /d; echo a > /s/a; chmod 640 /s/a; chown 3:4 /s/a; ln -s a /s/l; ln -s sub /s/ls; "
    "ln -s /s /abs; echo b > /s/sub/b; chmod 4755 /s/sub/b; touch -d @1000 /s/sub; ln /s/a /s/hard; "
    "ln -s no /s/no; echo ready; exec sleep 1000"
)
CLEAN = (
    "rm -rf /d; mkdir -p /d/there; echo old > /d/file; "
    "ln -s there /d/link; ln -s file /d/flink; ln -s no /d/no"
)


def is_ready(both: SideBySide, name: str) -> bool:
    return "ready" in both.docker("logs", name).out


@pytest.fixture(scope="module")
def world(both: SideBySide) -> Iterator[SideBySide]:
    both.remove(*CONTAINERS.values())
    for name in CONTAINERS.values():
        both.docker("run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c", INSIDE)
        wait_until(partial(is_ready, both, name), f"{name} is ready")
    yield both
    both.remove(*CONTAINERS.values())


def local(folder: Path) -> None:
    """What is copied from and to on this side."""
    (folder / "src/sub").mkdir(parents=True)
    (folder / "dst/there").mkdir(parents=True)
    (folder / "src/a").write_text("local a")
    os.chown(folder / "src/a", 1234, 55)
    os.chmod(folder / "src/a", 0o4751)
    (folder / "src/sub/b").write_text("local b")
    (folder / "src/l").symlink_to("a")
    (folder / "src/ls").symlink_to("sub")
    (folder / "src/abs").symlink_to(folder / "src/sub")
    (folder / "src/no").symlink_to("nowhere")
    os.link(folder / "src/a", folder / "src/hard")
    os.utime(folder / "src/sub/b", (1000, 1000))
    (folder / "dst/file").write_text("old")
    (folder / "dst/link").symlink_to("there")
    (folder / "dst/flink").symlink_to("file")
    (folder / "dst/no").symlink_to("no-such")


def tree(folder: Path) -> list[str]:
    """All below a folder: kind, mode, owner, content."""
    found = []
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        old = stat.st_mtime == 1000
        found.append(
            f"{path.relative_to(folder)} {stat.st_mode:o} {stat.st_uid} {stat.st_gid} {old} {content}"
        )
    return [line.replace(str(folder), "T") for line in found]


def inside(both: SideBySide, name: str) -> str:
    look = "stat -c '%n %f %u:%g %N' $f; test -f $f && cat $f"
    script = f"cd /d; find . | sort | while read f; do {look}; done; true"
    return both.docker("exec", name, "sh", "-c", script).out


def same(both: SideBySide, base: Path, line: str, input: str | None = None) -> str:
    """Assert that both come to the same: text, exit code, what is on both sides; returns the text.

    In the line C is the container, T a folder of this side.
    """
    outcomes = []
    for program, name in CONTAINERS.items():
        folder = base / name
        folder.mkdir()
        local(folder)
        both.docker("exec", name, "sh", "-c", CLEAN)
        words = [re.sub(r"\bT\b", str(folder), re.sub(r"\bC\b", name, word)) for word in shlex.split(line)]
        done = both.engine.docker(*words, program=program, check=False, input=input)
        texts = [
            plain(text).replace(str(folder), "T").replace(name, "C") for text in (done.stdout, done.stderr)
        ]
        there = inside(both, name).replace(str(folder), "T")
        outcomes.append((done.returncode, texts, tree(folder), there))
    theirs, ours = outcomes
    assert ours == theirs, line
    return "".join(ours[1])


OUT = """
cp C:/s/a T/dst
cp C:/s/a T/dst/new
cp C:/s/a T/dst/new/
cp C:/s/a T/dst/file
cp C:/s/a T/dst/link
cp C:/s/a T/dst/no
cp C:/s/a T/nope/x
cp C:/s T/dst
cp C:/s/ T/dst/new/
cp C:/s/. T/dst
cp C:/s/. T/dst/new
cp C:/s T/dst/file
cp C:/s/l T/dst
cp -L C:/s/l T/dst/new
cp C:/s/ls/ T/dst
cp -L C:/s/ls/. T/dst
cp -L C:/abs T/dst
cp -L C:/s/no T/dst
cp -a C:s/hard T/dst/there/../here
cp C:/s/a/ T/dst
cp nosuch:/x T/dst
cp C:/s/a /dev/null
container cp C:/nope T/dst
"""


@pytest.mark.parametrize("line", OUT.strip().splitlines())
def test_out_of_a_container(world: SideBySide, base_dir: Path, line: str) -> None:
    same(world, base_dir, line)


INTO = """
cp T/src/a C:/d
cp T/src/a C:/d/new
cp T/src/a C:/d/new/
cp T/src/a C:/d/flink
cp T/src/a C:/d/no
cp T/src/a C:/d/nope/x
cp T/src C:/d/link
cp T/src/ C:/d/new/
cp T/src/. C:/d
cp T/src C:/d/file
cp T/src/l C:/d
cp -L T/src/l C:/d/new
cp T/src/ls/ C:/d
cp -L T/src/abs/. C:/d
cp T/src/abs/ C:/d/new
cp -L T/src/no C:/d
cp -a T/src/hard C:d/rel
cp T/nope C:/d
cp T/nope/x C:/d
cp T/src/a nosuch:/d
cp T/src/sub/b C:/dev/null
cp T/src/a/ C:/d
"""


@pytest.mark.parametrize("line", INTO.strip().splitlines())
def test_into_a_container(world: SideBySide, base_dir: Path, line: str) -> None:
    same(world, base_dir, line)


REFUSED = """
cp
cp a b c
cp '' C:/x
cp C:/x ''
cp C:/x C:/y
cp T/a T/b
cp --foo C:/x T
cp ./C:/x T
cp - C:/d/file
cp - C:/nope
cp - nosuch:/
cp C:/nope -
cp :/x T/dst
diff
diff nosuch
diff ''
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_refusals(world: SideBySide, line: str) -> None:
    texts = []
    for program, name in CONTAINERS.items():
        words = [re.sub(r"\bT\b", "/nonexistent", re.sub(r"\bC\b", name, word)) for word in shlex.split(line)]
        done = world.run(program, *words, input="")
        texts.append((done.code, done.out, done.err.replace(name, "C")))
    assert texts[1] == texts[0]


def test_a_tar_file_out_and_in(world: SideBySide, base_dir: Path) -> None:
    for program, name in CONTAINERS.items():
        world.docker("exec", name, "sh", "-c", CLEAN)
        cp, file = f"{program or peer('docker')} cp", base_dir / name
        script = f"{cp} {name}:/s - > {file} && {cp} - {name}:/d < {file}"
        world.engine.netns.run(["sh", "-c", script], env=world.engine.env, check=True)
    theirs, ours = (inside(world, name) for name in CONTAINERS.values())
    assert ours == theirs and "./s/sub/b" in ours


def test_diff(world: SideBySide) -> None:
    script = "rm /etc/group; echo > /x; echo >> /etc/passwd"
    world.docker("run", "--name", "changed", "busybox", "sh", "-c", script)
    try:
        for words in (("diff",), ("container", "diff")):  # dockerd's order is another one each time
            theirs, ours = world.docker(*words, "changed"), world.cutaway(*words, "changed")
            assert sorted(ours.out.splitlines()) == sorted(theirs.out.splitlines())
            assert "D /etc/group" in ours.out and (ours.code, ours.err) == (theirs.code, theirs.err)
    finally:
        world.remove("changed")
