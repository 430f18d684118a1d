"""Files of the kernel that are something else: what the runtime writes must reach the kernel, or be refused.

The runtime is run in a mount namespace that somebody else has arranged, as it is within a container: what
is mounted over a part of /proc or of a cgroup hierarchy takes each write, and confines nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cutaway.errors import PermissionDenied
from cutaway.linux import capabilities, procfs
from cutaway.linux.cgroups import detect, files
from runc.bundles import Bundle, Runtime

pytestmark = pytest.mark.root

# Of the parameters of namespaces this one has one file for all: the others are files of their own in each.
DOMAIN = "/proc/sys/kernel/domainname"


@contextmanager
def arranged(runtime: Runtime, script: str, *arguments: str | Path) -> Iterator[None]:
    """Run the runtime where a script has mounted something; its arguments are $1, $2 ..."""
    words = [os.fspath(argument) for argument in arguments]
    apart = f'{script} && shift {len(words)} && exec "$@"'
    runtime.prefix = ("unshare", "--mount", "sh", "-c", apart, "sh", *words)
    try:
        yield
    finally:
        runtime.prefix = ()


@pytest.fixture
def lies(place: Path) -> Path:
    """Files that take anything."""
    path = place / "lies"
    path.mkdir()
    return path


def test_a_sysctl_where_lies_are_mounted(ours: Runtime, bundle: Bundle, name: str, lies: Path) -> None:
    """CVE-2025-52881: a file over the parameter, and a folder over the one that it is in."""
    bundle.linux["sysctl"] = {"kernel.domainname": "mine"}
    bundle.process["args"] = ["cat", DOMAIN]
    for target in (DOMAIN, os.path.dirname(DOMAIN)):
        (lies / "domainname").write_text("untouched")
        source = lies / "domainname" if target == DOMAIN else lies
        with arranged(ours, 'mount --bind "$1" "$2"', source, target):
            result = ours("run", "--bundle", bundle, name)
        assert (result.code, result.out) == (0, "mine\n"), result.err
        assert (lies / "domainname").read_text() == "untouched"


def test_a_sysctl_that_leads_to_another_file_of_procfs(ours: Runtime, bundle: Bundle, name: str) -> None:
    """CVE-2025-52881: that it is procfs proves nothing, so is /proc/sysrq-trigger."""
    bundle.linux["sysctl"] = {"kernel.domainname": "mine"}
    bundle.process["args"] = ["cat", DOMAIN]
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        score = Path(f"/proc/{bystander.pid}/oom_score_adj")
        before = score.read_text()
        with arranged(ours, 'mount --bind "$1" "$2"', score, DOMAIN):
            result = ours("run", "--bundle", bundle, name)
        after = score.read_text()
        bystander.kill()
    assert (result.code, result.out) == (0, "mine\n"), result.err
    assert (before, after) == ("0\n", "0\n")


def test_a_sysctl_where_no_other_procfs_can_be_had(
    ours: Runtime, bundle: Bundle, name: str, lies: Path
) -> None:
    """In a user namespace the kernel mounts no procfs where the one there is has parts covered."""
    (lies / "domainname").write_text("untouched")
    bundle.namespace("user").linux["sysctl"] = {"kernel.domainname": "mine"}
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    with arranged(ours, 'mount --bind "$1" "$2"', lies, os.path.dirname(DOMAIN)):
        result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert f"open {DOMAIN}: something else is mounted on it" in result.error
    assert (lies / "domainname").read_text() == "untouched"
    assert not os.listdir(ours.root)


def test_a_score_where_lies_are_mounted(ours: Runtime, bundle: Bundle, name: str, lies: Path) -> None:
    """It is written by pid, which nobody knows before: so all of /proc is something else."""
    bundle.process["oomScoreAdj"] = 500
    script = 'mount -t tmpfs none "$1" && mount --rbind /proc "$1" && mount -t tmpfs none /proc && '
    script += "mkdir /proc/self && touch /proc/self/mountinfo /proc/self/cgroup"
    with arranged(ours, script, lies):
        result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "Traceback" not in result.err


@pytest.mark.skipif("memory" not in detect.layout().mounts, reason="no v1 memory controller")
def test_limits_where_a_directory_is_mounted_over_the_cgroup(
    ours: Runtime, bundle: Bundle, name: str, lies: Path
) -> None:
    """A limit that is written to a file like any other limits nothing, and nobody learns of it."""
    mine = lies / name
    mine.mkdir()
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes")
    for file in (*limits, "tasks", "cgroup.procs", "memory.oom_control"):
        (mine / file).write_text("0")
    bundle.linux["cgroupsPath"] = f"/{name}"
    bundle.linux["resources"] = {"memory": {"limit": 32 << 20}}
    with arranged(ours, 'mount --bind "$1" "$2"', lies, detect.layout().mounts["memory"]):
        result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "it is not a file of a cgroup file system" in result.error
    assert {(mine / file).read_text() for file in limits} == {"0"}
    assert not os.listdir(ours.root)


@pytest.mark.parametrize("action", [files.read, files.read_line, lambda path: files.write(path, "1")])
def test_a_file_that_is_none_of_cgroupfs(tmp_path: Path, action: object) -> None:
    file = tmp_path / "memory.max"
    file.write_text("max")
    (tmp_path / "link").symlink_to(file)
    for path in (file, tmp_path / "link"):
        with pytest.raises(PermissionDenied, match="not a file of a cgroup file system"):
            action(os.fspath(path))  # type: ignore[operator]
    assert file.read_text() == "max"


@pytest.mark.parametrize(
    "path", ["/proc/self/exe", "/proc/self/root/etc/passwd", "/proc/self/cwd/.", "/proc/../etc/passwd"]
)
def test_a_link_of_procfs_is_not_followed(path: str) -> None:
    with pytest.raises(OSError, match=r"too many levels|cross-device"):
        os.close(procfs.open_file(path, os.O_RDONLY))


@pytest.mark.parametrize("told", ["0", "5", "62", "-1", "nonsense", "", "9" * 40])
def test_a_last_capability_that_the_kernel_denies(tmp_path: Path, told: str) -> None:
    """The kernel is asked itself: a file could make the runtime drop too few."""
    lie = tmp_path / "cap_last_cap"
    lie.write_text(told)
    code = "from cutaway.linux import capabilities; print(capabilities.last_cap())"
    script = f'mount --bind "$1" /proc/sys/kernel/cap_last_cap && exec "$2" -c "{code}"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", lie, sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{capabilities.last_cap()}\n", done.stderr
