"""Hostile programs: what a process of the container gets hold of, and what it does not."""

from __future__ import annotations

import subprocess

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named


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
    (bundle.rootfs / "bin/setuid").write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    (bundle.rootfs / "bin/setuid").chmod(0o4755)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["args"] = ["setuid", "id", "-u"]
    assert "0" not in ours("run", "--bundle", bundle, name).out.split()


@pytest.mark.root
def test_a_fork_bomb_stays_within_its_limit(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["resources"] = {"pids": {"limit": 20}}
    bundle.shell("while true; do sleep 1000 & done")
    result = ours("run", "--bundle", bundle, name)
    assert "can't fork" in result.err
    assert not cgroups_named(name)
