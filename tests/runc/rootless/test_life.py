"""A user's containers from create to delete, their files and devices."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from runc.rootless.parts import (
    SETUP,
    map_ranges,
    out,
    sleeping,
)
from runc.rootless.users import ID, User
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_a_container_s_whole_life(runtime: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    pid_file = place / "root/pid"
    assert runtime.detached("create", "--bundle", bundle, "--pid-file", pid_file, name).code == 0
    pid = int(pid_file.read_text())
    state = runtime.state(name)
    assert (state["status"], state["pid"]) == ("created", pid)
    assert Path(f"/proc/{pid}").stat().st_uid == ID
    assert runtime("start", name).code == 0
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the program runs")
    result = runtime("exec", name, "id")
    assert (result.code, result.out, result.err) == (0, "uid=0 gid=0\n", "")
    listed = runtime("list").out.splitlines()[1].split()
    assert (listed[0], listed[2]) == (name, "running")
    assert runtime("kill", name, "KILL").code == 0
    runtime.wait_for(name, "stopped")
    assert runtime("delete", name).code == 0
    assert runtime("list", "--quiet").out == ""


def test_exec_takes_a_mapped_user_and_no_other(runtime: Runtime, bundle: Bundle, name: str) -> None:
    sleeping(runtime, map_ranges(bundle), name)
    assert runtime("exec", "--user", "10:20", name, "id").out == "uid=10 gid=20\n"
    for words, message in (
        (["--user", "70000"], "cannot set uid to unmapped user in user namespace"),
        (["--additional-gids", "5"], "cannot set any additional groups in a rootless container"),
    ):
        result = runtime("exec", *words, name, "id")
        assert (result.code, result.error) == (255, f"exec failed: {SETUP}{message}")


def test_exec_waits_for_start(user: User, ours: Runtime, bundle: Bundle, name: str) -> None:
    assert ours.detached("create", "--bundle", bundle, name).code == 0
    for prefix in (user.prefix(), ()):
        ours.prefix = prefix
        result = ours("exec", name, "true")
        assert result.code == 255
        assert result.error == "exec failed: cannot exec in a user's container that is not started"


@pytest.mark.parametrize("ranges", [False, True])
def test_a_created_containers_namespaces_can_be_entered(
    user: User, runtime: Runtime, bundle: Bundle, name: str, ranges: bool
) -> None:
    """As slirp4netns does, to give it a network."""
    if ranges:
        map_ranges(bundle)
    assert runtime.detached("create", "--bundle", bundle.namespace("network"), name).code == 0
    pid = runtime.state(name)["pid"]
    done = user.run("nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials", "ls", "/proc")
    assert (done.returncode, done.stderr) == (0, "")


def test_roots_exec_in_a_users_container(user: User, ours: Runtime, bundle: Bundle, name: str) -> None:
    del bundle.process["rlimits"]  # this machine's root may not set another's
    sleeping(ours, bundle, name)
    ours.prefix = ()
    result = ours("exec", name, "id")
    assert (result.code, result.out) == (0, "uid=0 gid=0\n"), result.err
    ours.prefix = user.prefix()


def test_a_terminal_is_the_users(runtime: Runtime, bundle: Bundle, name: str) -> None:
    map_ranges(bundle).process["user"] = {"uid": 7, "gid": 7}
    bundle.process["terminal"] = True
    bundle.shell("tty; stat -c %u /dev/pts/0; echo reached > /dev/tty")
    ours, theirs = pty.openpty()
    try:
        command = runtime.command("run", "--bundle", bundle, name)
        done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, check=False, timeout=30)
    finally:
        os.close(theirs)
    said = os.read(ours, 4096).decode().split()
    os.close(ours)
    assert (done.returncode, said) == (0, ["/dev/pts/0", "7", "reached"]), " ".join(said)


def test_hooks_run_as_the_user(runtime: Runtime, bundle: Bundle, name: str) -> None:
    for point in ("prestart", "createRuntime", "createContainer", "poststart", "poststop"):
        script = f"cat > {bundle.path}/{point}; id -u >> {bundle.path}/{point}"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
        bundle.config.setdefault("hooks", {})[point] = [hook]
    out(runtime, bundle, name)
    said = {p.name: p.read_text().rpartition("}")[2].strip() for p in bundle.path.iterdir() if p.is_file()}
    said.pop("config.json")
    assert said.pop("createContainer") == "0"
    assert said == dict.fromkeys(("prestart", "createRuntime", "poststart", "poststop"), str(ID))


def test_a_users_seccomp_filter(user: User, ours: Runtime, bundle: Bundle, name: str) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    result = ours("run", "--bundle", bundle.shell("mkdir /dev/shm/x"), name)
    assert "Permission denied" in result.err
    (cached,) = (user.runtime_dir / "cutaway/seccomp").iterdir()
    assert (cached.stat().st_uid, cached.stat().st_mode & 0o777) == (ID, 0o600)


def test_devices_are_the_hosts_bound(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.shell("stat -c '%F %t:%T %u' /dev/null; echo x > /dev/null; cat /dev/full | head -c 3 | wc -c")
    assert out(runtime, bundle, name) == "character special file 1:3 65534\n3\n"


def test_a_bind_keeps_what_its_source_is_locked_with(
    user: User, ours: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.mount("/mnt", "none", os.fspath(user.locked), "rbind", "ro")
    line = out(ours, bundle.shell("grep ' /mnt ' /proc/self/mountinfo"), name)
    assert line.split()[5].split(",")[:3] == ["ro", "nosuid", "nodev"]
    bundle.config["mounts"][-1]["options"] = ["rbind", "suid"]
    result = ours("run", "--bundle", bundle, name)
    assert result.error.endswith("cannot clear locked flags MS_NOSUID: operation not permitted")


def test_a_root_directory_that_the_user_cannot_read(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    os.chown(bundle.rootfs, 0, 0)
    bundle.rootfs.chmod(0o700)
    result = ours("run", "--bundle", bundle, name)
    assert (result.code, result.error.rpartition(": ")[2]) == (1, "permission denied")


def test_sysctls_of_its_own_namespaces(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["sysctl"] = {"kernel.shmmax": "12345"}
    assert out(runtime, bundle.shell("cat /proc/sys/kernel/shmmax"), name) == "12345\n"
