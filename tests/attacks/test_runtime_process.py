"""Hostile programs: what a process of the container gets hold of, and what it does not."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest

from attacks.rig import standalone
from cutaway.linux import trampoline
from runc.bundles import Bundle, Runtime, cgroups_named

EXECVE = {"x86_64": 59, "aarch64": 221}
SETRESUID = {"x86_64": 117, "aarch64": 147}


@pytest.mark.root
@pytest.mark.parametrize("number", range(3, 12))
def test_a_working_directory_in_a_descriptor_of_the_host(
    ours: Runtime, bundle: Bundle, name: str, number: int
) -> None:
    """CVE-2024-21626: a descriptor of the host's, still open, as the way out."""
    bundle.process["cwd"] = f"/proc/self/fd/{number}"
    result = ours("run", "--bundle", bundle.shell("pwd"), name)
    assert (result.code, result.out) == (1, "")
    assert "possible container breakout detected" in result.error or "/proc/self/fd" in result.error


@pytest.mark.root
@pytest.mark.parametrize("command", ["run", "exec"])
@pytest.mark.parametrize("climb", ["", "/usr"])
def test_a_working_directory_in_a_descriptor_that_is_passed_on(
    ours: Runtime, bundle: Bundle, name: str, command: str, climb: str
) -> None:
    """CVE-2024-21626: whoever runs the runtime has a directory of the host open, and passes it on."""
    cwd, script = f"/proc/self/fd/3{climb}", "pwd; ls ../etc/shadow etc/shadow"
    if command == "exec":
        bundle.process["args"] = ["sleep", "1000"]
        ours.detached("run", "--detach", "--bundle", bundle, name)
        words = ours.command("exec", "--preserve-fds", "1", "--cwd", cwd, name, "sh", "-c", script)
    else:
        bundle.process["cwd"] = cwd
        bundle.shell(script)
        words = ours.command("run", "--preserve-fds", "1", "--bundle", bundle, name)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 3< /', "sh", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == (255 if command == "exec" else 1)
    assert done.stdout == ""
    assert "possible container breakout detected" in done.stderr or "mkdir /proc/self/fd/3" in done.stderr


@pytest.mark.root
def test_exec_with_a_working_directory_in_a_descriptor(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    for number in range(3, 14):
        result = ours("exec", "--cwd", f"/proc/self/fd/{number}", name, "ls", "-d", "../../../etc/shadow")
        assert result.code != 0
        assert "shadow" not in result.out


@pytest.mark.root
def test_nothing_inheritable_that_was_not_asked_for(ours: Runtime, bundle: Bundle, name: str) -> None:
    """CVE-2022-29162: inheritable capabilities turn files with inheritable bits into a gain of rights."""
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    result = ours("exec", "--cap", "CAP_NET_ADMIN", name, "grep", "CapInh", "/proc/self/status")
    assert result.out.split() == ["CapInh:", f"{0:016x}"]


@pytest.mark.root
def test_the_waiting_init_cannot_be_looked_into(ours: Runtime, bundle: Bundle, name: str) -> None:
    """CVE-2016-9962, CVE-2019-5736: until its exec init is the host's interpreter with the host's files open.

    A process of the container in the same namespaces, without CAP_SYS_PTRACE, tries its /proc entries.
    """
    ours.detached("create", "--bundle", bundle, name)
    script = "cat /proc/1/environ; ls -l /proc/1/exe /proc/1/fd/0 /proc/1/cwd; ls /proc/1/root/"
    result = ours("exec", "--user", "0:0", name, "sh", "-c", script)
    assert "->" not in result.out
    assert "python" not in result.out
    assert result.err.count("Permission denied") == 5


@pytest.mark.root
def test_a_program_of_setuid_gains_nothing_under_no_new_privileges(
    ours: Runtime, bundle: Bundle, name: str
) -> None:
    made = trampoline.Trampoline()
    made.call(SETRESUID[os.uname().machine], 0, 0, 0)  # which may fail
    words = [made.place(word + b"\0") for word in (b"/bin/busybox", b"id", b"-u")]
    argv, envp = made.place(struct.pack("<4Q", *words, 0)), made.place(bytes(8))
    made.call(EXECVE[os.uname().machine], words[0], argv, envp, failure="execute")
    program = bundle.rootfs / "gain"
    program.write_bytes(standalone(made))
    program.chmod(0o4755)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["args"] = ["/gain"]
    for forbidden, uid in ((True, "1000"), (False, "0")):  # the second shows that it would
        bundle.process["noNewPrivileges"] = forbidden
        assert ours("run", "--bundle", bundle, name).out.split() == [uid]


@pytest.mark.root
@pytest.mark.parametrize("command", ["run", "exec"])
def test_descriptors_of_the_caller_stay_with_it(
    ours: Runtime, bundle: Bundle, name: str, command: str
) -> None:
    """CVE-2024-21626: what nobody has asked to be passed on."""
    bundle.config["root"]["readonly"] = False
    script = (
        "for fd in 3 4 5 6 7 8 9; do if [ -e /proc/self/fd/$fd ]; then readlink /proc/self/fd/$fd; fi; done"
    )
    if command == "exec":
        bundle.process["args"] = ["sleep", "1000"]
        ours.detached("run", "--detach", "--bundle", bundle, name)
        words = ours.command("exec", name, "sh", "-c", script)
    else:
        words = ours.command("run", "--bundle", bundle.shell(script), name)
    opened = 'exec "$@" 3< / 5< /etc 7> /dev/null 9< /sys/fs/cgroup'
    done = subprocess.run(["sh", "-c", opened, "sh", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.root
def test_a_fork_bomb_stays_within_its_limit(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["resources"] = {"pids": {"limit": 20}}
    bundle.shell("while true; do sleep 1000 & done")
    result = ours("run", "--bundle", bundle, name)
    assert "can't fork" in result.err
    assert not cgroups_named(name)
