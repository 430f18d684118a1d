"""CVE-2019-5736: a container that gets hold of the runtime's own file, ours being the host's interpreter.

Each container has the kernel execute `/proc/self/exe` for it, by one of the ways there are, with a loader of
its own that the interpreter asks for. That keeps a descriptor of whatever it was executed from, becomes
something else, and writes to it once nobody executes it. The interpreter is a copy: a runtime that is
caught by this loses no more than that.
"""

from __future__ import annotations

import os
import struct

import pytest

from attacks.rig import OVERWRITE, Host, standalone
from cutaway.linux import libc, trampoline
from runc.bundles import Bundle, Runtime
from support.process import wait_until

pytestmark = pytest.mark.root

AT_FDCWD = -100
EXECVE = {"x86_64": 59, "aarch64": 221}
REFUSED = "exec /proc/self/exe: permission denied"


@pytest.fixture
def hostile(bundle: Bundle, host: Host) -> Bundle:
    """An image with traps: /evil/sh leads to whoever executes it, and the loader is the attacker's."""
    rootfs = bundle.rootfs
    for folder in ("evil", "loot", "lib64", "lib"):
        (rootfs / folder).mkdir()
    for path in ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"):
        (rootfs / path).write_bytes(loader())
        (rootfs / path).chmod(0o755)
    for name in ("sh", "cutaway"):
        (rootfs / "evil" / name).symlink_to("/proc/self/exe")
    (rootfs / "evil/script").write_text("#!/evil/sh\n")
    (rootfs / "evil/plain").write_text("#!/proc/self/exe\n")
    (rootfs / "overwrite").write_text(OVERWRITE)
    for name in ("script", "plain"):
        (rootfs / "evil" / name).chmod(0o755)
    bundle.process["env"] = ["PATH=/bin:/evil"]
    bundle.config["root"]["readonly"] = False
    bundle.process["capabilities"]["bounding"] += ["CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"]["effective"] += ["CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"]["permitted"] += ["CAP_DAC_OVERRIDE"]
    return bundle


def loader() -> bytes:
    """A program that can stand in for ld.so: opens what the process was executed from, and lets it be."""
    made = trampoline.Trampoline()
    words = [made.place(word + b"\0") for word in (b"/bin/busybox", b"sh", b"/overwrite")]
    argv = made.place(struct.pack("<4Q", words[1], words[2], 0, 0))
    envp = made.place(struct.pack("<QQ", made.place(b"PATH=/bin\0"), 0))
    made.call(libc.NUMBERS["openat"], AT_FDCWD, made.place(b"/proc/self/exe\0"), os.O_RDONLY, failure="open")
    made.call(EXECVE[os.uname().machine], words[0], argv, envp, failure="execute")
    return standalone(made)


def loot(bundle: Bundle) -> list[str]:
    """What the hostile program has got to say, after it has had the time to overwrite what it holds."""
    folder = bundle.rootfs / "loot"
    if (folder / "exe").exists():
        wait_until((folder / "done").exists, "the attack is over")
    return sorted(os.listdir(folder))


def assert_safe(host: Host, hostile: Bundle) -> None:
    assert loot(hostile) == []
    assert host.intact()


ARGUMENTS = {
    "program": ["/evil/sh"],
    "script": ["/evil/script"],
    "plain": ["/evil/plain"],
    "itself": ["/proc/self/exe"],
    "marked": ["cutaway", "/evil/sh", "sh"],  # as the trampoline itself is executed
}


@pytest.mark.parametrize("way", ARGUMENTS)
def test_as_the_containers_program(
    runtime: Runtime, hostile: Bundle, host: Host, name: str, way: str
) -> None:
    hostile.process["args"] = ARGUMENTS[way]
    assert runtime.detached("create", "--bundle", hostile, name).code == 0
    assert runtime("start", name).code == 0
    runtime.wait_for(name, "stopped")
    assert_safe(host, hostile)


def test_what_is_said_of_it(runtime: Runtime, hostile: Bundle, name: str) -> None:
    hostile.process["args"] = ["/evil/script"]
    result = runtime("run", "--bundle", hostile, name)
    assert (result.code, result.err.strip()) == (1, REFUSED)


@pytest.mark.parametrize("way", ARGUMENTS)
def test_as_a_program_of_exec(runtime: Runtime, hostile: Bundle, host: Host, name: str, way: str) -> None:
    """The image has replaced what an administrator executes."""
    hostile.process["args"] = ["/bin/sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", hostile, name)
    result = runtime("exec", name, *ARGUMENTS[way])
    assert result.code == 1
    assert REFUSED in result.err
    assert_safe(host, hostile)


@pytest.mark.parametrize("way", ARGUMENTS)
def test_as_a_hook_inside_the_container(
    runtime: Runtime, hostile: Bundle, host: Host, name: str, way: str
) -> None:
    arguments = ARGUMENTS[way]
    path = os.path.join("/evil", arguments[0])
    hostile.config["hooks"] = {"startContainer": [{"path": path, "args": arguments}]}
    hostile.process["args"] = ["/bin/sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", hostile, name)
    wait_until(lambda: runtime.status(name) in ("stopped", "running"), "the hook has run")
    assert_safe(host, hostile)


def test_what_stands_behind_the_program_of_a_hook(runtime: Runtime, hostile: Bundle, name: str) -> None:
    hostile.config["hooks"] = {"startContainer": [{"path": "/evil/script"}]}
    result = runtime("run", "--bundle", hostile, name)
    assert result.code == 1
    said = f"error running hook #0: error running hook: exit status 1, stdout: , stderr: {REFUSED}"
    assert said in result.err


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("forbidden", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
def test_under_a_filter_that_forbids_execveat(
    runtime: Runtime, hostile: Bundle, host: Host, name: str, no_new_privileges: bool, forbidden: str
) -> None:
    hostile.process["noNewPrivileges"] = no_new_privileges
    hostile.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["execveat"], "action": forbidden}],
    }
    hostile.process["args"] = ["/evil/sh"]
    result = runtime("run", "--bundle", hostile, name)
    assert result.err.strip() == REFUSED
    assert_safe(host, hostile)
