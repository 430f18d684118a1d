"""Where the state is, and root of a user namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from runc.rootless.parts import (
    OURS,
    out,
    without_user_namespace,
)
from runc.rootless.users import ID, User
from support.peers import peer

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_state_is_in_the_runtime_directory(user: User, bundle: Bundle, name: str) -> None:
    done = user.run(OURS, "run", "--bundle", bundle, name)
    assert (done.returncode, done.stderr) == (0, "")
    found = (user.runtime_dir / "cutaway-runc").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (ID, 0o1700)


def test_without_a_runtime_directory(user: User, bundle: Bundle, name: str) -> None:
    done = user.run(OURS, "run", "--bundle", bundle, name, XDG_RUNTIME_DIR=None)
    assert done.returncode == 1
    assert "permission denied (without root, set XDG_RUNTIME_DIR or give --root)" in done.stderr


@pytest.mark.parametrize("path", ["/proc/none", "/etc/passwd"])
def test_a_runtime_directory_that_cannot_be_used(user: User, path: str) -> None:
    for program in (OURS, peer("runc")):
        done = user.run(program, "list", XDG_RUNTIME_DIR=path)
        assert done.returncode == 1
        assert "the path in $XDG_RUNTIME_DIR must be writable by the user" in done.stderr


def test_the_hosts_root_keeps_to_run(user: User, place: Path) -> None:
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": os.fspath(place)}
    subprocess.run([OURS, "list"], check=True, env=env, capture_output=True)
    assert not (place / "cutaway-runc").exists()


@pytest.mark.parametrize("program", ["cutaway-runc", "runc"])
def test_root_of_a_user_namespace(
    inner: Callable[[Path], Runtime], bundle: Bundle, name: str, program: str
) -> None:
    """No namespace of its own, devices bound, groups that cannot be set passed over, cgroups missed."""
    runtime = inner(OURS if program == "cutaway-runc" else peer("runc"))
    without_user_namespace(bundle.config)
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = []
    bundle.process["user"] = {"uid": 0, "gid": 0, "additionalGids": [0]}
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    bundle.shell("id; cat /proc/self/uid_map; stat -c '%t:%T %u' /dev/null")
    assert out(runtime, bundle, name).split() == ["uid=0", "gid=0", "0", str(ID), "1", "1:3", "65534"]


def test_root_of_a_user_namespace_makes_another(
    inner: Callable[[Path], Runtime], bundle: Bundle, name: str
) -> None:
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    bundle.linux["gidMappings"] = bundle.linux["uidMappings"]
    assert out(inner(OURS), bundle.shell("id"), name) == "uid=0 gid=0\n"


def test_root_of_a_user_namespace_has_its_state_in_the_runtime_directory(
    user: User, inner: Callable[[Path], Runtime], name: str
) -> None:
    prefix = list(inner(OURS).prefix)
    where = user.runtime_dir / "cutaway-runc" / name
    for root, there in (("joe", True), ("root", False)):
        command = [*prefix, "env", f"USER={root}", os.fspath(OURS), "state", name]
        where.mkdir(parents=True, exist_ok=True)
        os.chown(where.parent, ID, ID)
        (where / "state.json").write_text("[]")
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        assert (f"{where}/state.json" in done.stderr) == there
    (where / "state.json").unlink()
    where.rmdir()
