"""The archive API and changes: what our engine says and does is what dockerd does."""

from __future__ import annotations

import gzip
import io
import json
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.side_by_side import CUTAWAY
from engine.archives import STAT, Answer, archive, described
from engine.engine_stack import Stack
from support.leftovers import temporary_base
from support.process import wait_until
from support.stack import Engine, RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

SCRIPT = """\
mkdir -p /d/sub /d/deep/er; echo a > /d/a; chmod 4755 /d/a; ln /d/a /d/hard; ln -s a /d/l; ln -s /d /dl
ln -s /nowhere/x /dangling; ln -s ../../../../etc/passwd /d/up; ln -s loop /loop; mkfifo /d/fifo
mknod /d/null c 1 3; chown 5:6 /d/sub; chmod 1777 /d/sub; echo x > "/d/deep/er/$(printf %0150d 7)"
dd if=/dev/zero of=/d/sparse bs=1 count=1 seek=3000000 2>/dev/null; echo ready; exec sleep 1000
"""


@dataclass(frozen=True)
class Pair:
    """The same containers on dockerd and on our engine."""

    theirs: Engine
    ours: Engine
    folder: Path

    def each(self, ask: Callable[[Engine], Any]) -> tuple[Any, Any]:
        return ask(self.theirs), ask(self.ours)

    def same(self, ask: Callable[[Engine], Any]) -> Any:
        """Assert that both answer the same; returns that."""
        theirs, ours = self.each(ask)
        assert ours == theirs
        return ours


def make(engine: Engine, folder: Path) -> None:
    options = ("--network", "none", "-v", f"{folder}/vol:/vol")
    engine.docker("run", "-d", "--name", "busy", *options, "-v", f"{folder}/ro:/ro:ro", "busybox", "sh", "-c",
                  SCRIPT)  # fmt: skip
    engine.docker("create", "--name", "fresh", "-v", f"{folder}/vol:/new/vol", "busybox", "true")
    engine.docker("run", "-d", "--read-only", "--name", "closed", *options, "busybox", "sleep", "1000")
    engine.docker("run", "--name", "ended", *options, "busybox", "sh", "-c", "mkdir /d; echo a > /d/a")
    wait_until(lambda: "ready" in engine.docker("logs", "busy").stdout, "busy is ready")


@pytest.fixture(scope="module")
def pair(shared_stack: Stack, real_dockerd: RealDockerd) -> Iterator[Pair]:
    with temporary_base() as folder:
        for name in ("vol", "ro"):
            (folder / name).mkdir()
            (folder / name / "f").write_text(name)
        made = Pair(real_dockerd, shared_stack.engine, folder)
        names = ("busy", "fresh", "closed", "ended")
        try:
            for engine in (made.theirs, made.ours):
                make(engine, folder)
            yield made
        finally:
            for engine in (made.theirs, made.ours):
                engine.docker("rm", "-f", *names, check=False)


def plain(answer: Answer) -> tuple[int, str]:
    """Status and message without the host's path of the root file system, which is not told by ours."""
    text = answer.message if answer.status >= 400 else ""
    before, found, after = text.partition("/merged")
    return answer.status, f"{before.rpartition(' ')[0]} {after}" if found else text


PATHS = [
    "/d", "/d/", "/d/.", "d/a", "/d/a/", "/d/l", "/dl", "/dl/", "/dl/.", "/dl/a", "/dl/deep", "/dangling",
    "/dangling/", "/d/up", "/d/up/", "/loop", "/nope", "/nope/", "/a/b/../c", "/vol/f", "/vol", "/ro",
    "/etc/hostname", "/etc/passwd", "/proc", "/d/../d", "/d/fifo", "/d/null", "/d/sparse", "//d//a",
    "/./d/./",
]  # fmt: skip
QUESTIONS = [
    *(("busy", path) for path in PATHS),
    *(("fresh", path) for path in ("/new/vol/f", "/new/", "/etc/passwd", "/d")),
    *(("ended", path) for path in ("/vol/f", "/d/", "/d/a", "/nope", "/etc/hostname")),
    ("nope", "/"),
]


@pytest.mark.parametrize(("container", "path"), QUESTIONS)
def test_looking_and_reading(pair: Pair, container: str, path: str) -> None:
    def head(engine: Engine) -> object:
        answer = archive(engine, "HEAD", container, path)
        stat = answer.stat if STAT in answer.headers else {}
        return answer.status, answer.body, {k: v for k, v in stat.items() if k not in ("mtime", "size")}

    def get(engine: Engine) -> object:
        answer = archive(engine, "GET", container, path)
        if answer.status != 200:  # of a link that leads to a file, dockerd names the file
            return plain(answer) if path != "/d/up/" else answer.status
        assert answer.headers["Content-Type"] == "application/x-tar"
        contents = [answer.content(m.name) for m in answer.members if m.isreg() and "hostname" not in m.name]
        return described(answer), contents

    pair.same(head)
    pair.same(get)


def test_the_root_has_everything_but_what_is_mounted_at_run_time(pair: Pair) -> None:
    runtimes = {f"/etc/{name}" for name in ("hosts", "hostname", "resolv.conf", "mtab")}
    runtimes |= {"/.dockerenv", "/dev/console", "/dev/pts", "/dev/shm"}

    def names(engine: Engine) -> set[str]:
        return {member.name for member in archive(engine, "GET", "busy", "/").members} - runtimes

    assert {"/vol/f", "/ro/f", "/d/a", "/bin/busybox", "/proc"} <= pair.same(names)


@pytest.mark.parametrize("query", ["", "?path=", "?path=%00"])
def test_no_path(pair: Pair, query: str) -> None:
    status, body = pair.ours.request("GET", f"/containers/busy/archive{query}")
    assert status == 400 and b"bad parameter: 'path'" in body


def entry(name: str, data: bytes = b"", **values: Any) -> bytes:
    """A tar file of one entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in values.items():
            setattr(info, key, value)
        made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


ONE = entry("one", b"1")
BODIES = {
    "one": ONE,
    "gzip": gzip.compress(entry("zip", b"z" * 100_000)),
    "garbage": b"x" * 2000,
    "damaged gzip": gzip.compress(ONE)[:40],
    "empty": b"",
    "cut in the padding": ONE[:600],
    "cut in the header": ONE[:100],
    "cut in the data": entry("cut", b"x" * 5000)[:3000],
    "above": entry("../x", b"1"),
    "above in between": entry("a/../../x", b"1"),
    "absolute": entry("/abs", b"1"),
    "folders missing": entry("p/q/r", b"1", uid=5, gid=6, mode=0o4711, mtime=1000),
    "symlink out": entry("s1", type=tarfile.SYMTYPE, linkname="../../etc"),
    "symlink absolute": entry("s2", type=tarfile.SYMTYPE, linkname="/etc/passwd", uid=3),
    "hard link out": entry("h1", type=tarfile.LNKTYPE, linkname="../etc/passwd"),
    "hard link to nothing": entry("h3", type=tarfile.LNKTYPE, linkname="nope"),
    "the folder as a file": entry("."),
    "the folder": entry(".", type=tarfile.DIRTYPE, mode=0o700),
    "device": entry("dv", type=tarfile.CHRTYPE, devmajor=1, devminor=5, mode=0o666),
    "fifo": entry("ff", type=tarfile.FIFOTYPE, mode=0o620, gid=9),
    "file over folder": entry("sub", b"x"),
    "folder over file": entry("fifo", type=tarfile.DIRTYPE, mode=0o755),
    "contiguous": entry("cc", b"q", type=tarfile.CONTTYPE),
    "unknown type": entry("ww", b"q", type=b"Z"),
    "through a link": entry("l/x", b"1"),
}


@pytest.mark.parametrize(
    ("body", "keep"),
    [
        *((body, "0") for body in BODIES),
        *((body, "1") for body in ("one", "the folder as a file", "file over folder", "folder over file")),
    ],
)
def test_writing(pair: Pair, body: str, keep: str) -> None:
    script = "rm -rf /w; mkdir -p /w/sub; mkfifo /w/fifo; ln -s /etc /w/l; rm -f /etc/x"
    for engine in (pair.theirs, pair.ours):
        engine.docker("exec", "busy", "sh", "-c", script)
    answers = pair.each(lambda e: archive(e, "PUT", "busy", "/w", BODIES[body], noOverwriteDirNonDir=keep))
    if body == "damaged gzip":  # said in the words of two libraries
        assert [answer.status for answer in answers] == [500, 500]
    else:
        assert plain(answers[1]) == plain(answers[0])
    if body != "cut in the data":  # nobody but root may read what is not whole, with ours
        pair.same(lambda e: described(archive(e, "GET", "busy", "/w")))


@pytest.mark.parametrize(
    ("container", "path", "status"),
    [
        ("busy", "/dl", 200), ("busy", "/dl/", 200), ("busy", "/nope", 404), ("busy", "/d/a", 500),
        ("busy", "/vol", 200), ("busy", "/ro", 500), ("busy", "/dangling", 404), ("busy", "/loop", 500),
        ("closed", "/", 500), ("closed", "/vol", 200), ("closed", "/etc", 500), ("fresh", "/new/vol", 200),
        ("fresh", "/tmp", 200), ("ended", "/d", 200), ("ended", "/vol", 200), ("nope", "/", 404),
    ],
)  # fmt: skip
def test_where_can_be_written(pair: Pair, container: str, path: str, status: int) -> None:
    answer = pair.same(lambda e: plain(archive(e, "PUT", container, path, ONE)))
    assert answer[0] == status
    pair.same(lambda e: plain(archive(e, "HEAD", container, f"{path}/one")))


def test_owner_of_what_is_written(pair: Pair) -> None:
    made = entry("owned", b"1", uid=5, gid=6)
    for user, query, owner in (("", {}, (5, 6)), ("", {"copyUIDGID": "1"}, (5, 6)),
                               ("daemon", {"copyUIDGID": "1"}, (1, 1)), ("daemon", {}, (5, 6))):  # fmt: skip
        for engine in (pair.theirs, pair.ours):
            engine.docker("create", "--name", "who", "-u", user, "busybox", "true")
        try:
            assert {
                archive(e, "PUT", "who", "/", made, **query).status for e in (pair.theirs, pair.ours)
            } == {200}
            found = pair.same(lambda e: described(archive(e, "GET", "who", "/owned")))
            assert found[0][3:5] == owner
        finally:
            for engine in (pair.theirs, pair.ours):
                engine.docker("rm", "who")


def test_a_paused_container(pair: Pair) -> None:
    for engine in (pair.theirs, pair.ours):
        engine.docker("pause", "busy")
    try:
        assert pair.same(lambda e: archive(e, "PUT", "busy", "/tmp", ONE).status) == 200
        assert pair.same(lambda e: archive(e, "GET", "busy", "/tmp/one").content("one")) == b"1"
    finally:
        for engine in (pair.theirs, pair.ours):
            engine.docker("unpause", "busy")


def test_what_is_written_is_there_inside_and_after_the_next_start(pair: Pair) -> None:
    engine = pair.ours
    archive(engine, "PUT", "busy", "/tmp", entry("inside", b"seen"))
    assert engine.docker("exec", "busy", "cat", "/tmp/inside").stdout == "seen"
    engine.docker("create", "--name", "later", "-v", "box:/box/deep", "busybox", "cat", "/box/deep/x", "/y")
    try:
        assert archive(engine, "PUT", "later", "/box/deep", entry("x", b"in a volume ")).status == 200
        assert archive(engine, "PUT", "later", "/", entry("y", b"in the root")).status == 200
        assert engine.docker("start", "-a", "later").stdout == "in a volume in the root"
    finally:
        engine.docker("rm", "-v", "later")


def test_extended_attributes_and_holes_come_through(pair: Pair) -> None:
    engine = pair.ours
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"SCHILY.xattr.user.k": "v", "mtime": "1000.25"}
        made.addfile(info)
    archive(engine, "PUT", "busy", "/tmp", buffer.getvalue())
    member = archive(engine, "GET", "busy", "/tmp/x").members[0]
    assert member.pax_headers["SCHILY.xattr.user.k"] == "v"
    assert archive(engine, "HEAD", "busy", "/tmp/x").stat["mtime"] == "1970-01-01T00:16:40.25Z"
    with temporary_base() as folder:
        with (folder / "holes").open("wb") as file:
            file.truncate(300 << 20)
            file.seek(200 << 20)
            file.write(b"middle")
        for form in ("gnu", "pax"):
            packed = subprocess.run(
                ["tar", f"--format={form}", "--sparse", "-cf", "-", "-C", folder, "holes"],
                capture_output=True, check=True,
            ).stdout  # fmt: skip
            assert len(packed) < 1 << 20
            assert archive(engine, "PUT", "busy", "/tmp", packed).status == 200
            script = (
                "stat -c %s /tmp/holes; du -k /tmp/holes; "
                "dd if=/tmp/holes bs=1M skip=200 count=1 2>/dev/null | head -c 6"
            )
            told = engine.docker("exec", "busy", "sh", "-c", script).stdout
            size, used, content = told.splitlines()
            assert (size, content) == (str(300 << 20), "middle") and int(used.split()[0]) < 1024


def test_changes(pair: Pair) -> None:
    script = (
        "rm /etc/group; echo x > /etc/new; mkdir -p /q/w/e /var/a /tmp/b; rm -r /home; mkdir /home; "
        "chmod 700 /root; ln -sf x /etc/passwd; rm -rf /bin/[a-m]*; rm -r /tmp/b; ln /bin/sh /s"
    )
    for engine in (pair.theirs, pair.ours):
        options = ("--name", "changed", "-v", f"{pair.folder}/vol:/vol")
        engine.docker("run", *options, "busybox", "sh", "-c", script)

    def changes(engine: Engine, name: str) -> object:
        status, body = engine.request("GET", f"/v1.41/containers/{name}/changes")
        value = json.loads(body)
        return status, sorted(value, key=lambda c: str(c["Path"])) if isinstance(value, list) else value

    try:
        found = {c["Path"]: c["Kind"] for c in pair.same(lambda e: changes(e, "changed"))[1]}
        assert found["/etc/group"] == 2 and found["/q/w/e"] == 1 and found["/etc"] == 0
        assert "/home" not in found and "/proc" not in found and "/etc/hosts" not in found
        pair.same(lambda e: changes(e, "nope"))
    finally:
        for engine in (pair.theirs, pair.ours):
            engine.docker("rm", "changed")


def test_nothing_changed_is_null(pair: Pair) -> None:
    for engine in (pair.theirs, pair.ours):
        engine.docker("create", "--name", "same", "busybox")
    try:
        pair.same(lambda e: e.request("GET", "/v1.41/containers/same/changes"))
    finally:
        for engine in (pair.theirs, pair.ours):
            engine.docker("rm", "same")


@pytest.mark.parametrize("program", [None, CUTAWAY])
def test_both_command_lines_on_our_engine(pair: Pair, base_dir: Path, program: Path | None) -> None:
    engine = pair.ours
    (base_dir / "in").mkdir()
    (base_dir / "in/file").write_text("there and back")
    engine.docker("cp", f"{base_dir}/in", "busy:/tmp/copied", program=program)
    engine.docker("cp", "busy:/tmp/copied/.", f"{base_dir}/out", program=program)
    assert (base_dir / "out/file").read_text() == "there and back"
    assert "A /tmp/copied/file\n" in engine.docker("diff", "busy", program=program).stdout
    failed = engine.docker("cp", "busy:/nope", str(base_dir), program=program, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "Error: No such container:path: busy:/nope\n"


def test_a_client_that_hangs_up_leaves_the_container_usable(pair: Pair) -> None:
    engine = pair.ours
    head = "GET /containers/ended/archive?path=/ HTTP/1.1\r\nHost: x\r\n\r\n"
    put = "PUT /containers/ended/archive?path=/d HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nab"
    for request in (head, put):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(engine.socket))
            client.sendall(request.encode())
            if request is head:
                assert client.recv(100).startswith(b"HTTP/1.1 200")
    engine.docker("start", "-a", "ended", check=False, timeout=30)
    assert archive(engine, "HEAD", "ended", "/d/a").status == 200


def test_events(pair: Pair) -> None:
    engine = pair.ours
    archive(engine, "GET", "busy", "/d/a")
    archive(engine, "PUT", "busy", "/tmp", ONE)

    def told() -> list[str]:
        words = ("--since", "1", "--until", "0s", "--filter", "container=busy", "--format", "{{.Action}}")
        return engine.docker("events", *words).stdout.splitlines()

    wait_until(lambda: told()[-2:] == ["archive-path", "extract-to-dir"], "both are told")
