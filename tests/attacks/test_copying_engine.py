"""`docker cp` while the container's own processes exchange what is copied for a link to the host's place."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archives import archive
from engine.engine_stack import Stack, stack
from support.peers import need

pytestmark = [pytest.mark.root, pytest.mark.peers]

ROUNDS = 20


@pytest.fixture(scope="module")
def rig() -> Iterator[Stack]:
    need("docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    with stack() as made:
        yield made


def test_a_container_that_exchanges_a_directory_for_a_link(rig: Stack, place: Path) -> None:
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").write_text("host\n")
    script = (
        f"mkdir /dir; echo inside > /dir/file; ln -s {outside} /link; mkdir -p {outside}; echo ready; "
        "while :; do mv /dir /d; mv /link /dir; mv /dir /link; mv /d /dir; done"
    )
    rig.docker("run", "-d", "--name", "racer", "--network", "none", "busybox", "sh", "-c", script)
    rig.wait_log("racer", "ready")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        info = tarfile.TarInfo("new")
        made.addfile(info)
    seen = set()
    for _ in range(ROUNDS):
        for path in ("/dir", "/dir/", "/dir/file"):
            got = archive(rig.engine, "GET", "racer", path)
            seen.add(got.status)
            assert b"host\n" not in got.body
        seen.add(archive(rig.engine, "PUT", "racer", "/dir", buffer.getvalue()).status)
    assert [path.name for path in outside.iterdir()] == ["file"] and (
        outside / "file"
    ).read_text() == "host\n"
    assert 200 in seen
    rig.docker("rm", "-f", "racer")


def test_a_device_that_an_archive_brings_cannot_be_used_by_a_copy(rig: Stack) -> None:
    """It is made, as by Docker; reading it back gives the node, not what is behind it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        info = tarfile.TarInfo("zero")
        info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 5
        made.addfile(info)
    rig.docker("create", "--name", "still", "busybox")
    assert archive(rig.engine, "PUT", "still", "/", buffer.getvalue()).status == 200
    (member,) = archive(rig.engine, "GET", "still", "/zero").members
    assert member.ischr() and (member.devmajor, member.devminor) == (1, 5)
    rig.docker("rm", "still")
