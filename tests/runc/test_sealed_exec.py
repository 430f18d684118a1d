"""Two execs leave what one leaves: rights, messages and descriptors, with runc for comparison."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named

pytestmark = pytest.mark.root

CHOWN, OVERRIDE, KILL, NET = 1 << 0, 1 << 1, 1 << 5, 1 << 10
NAMES = {CHOWN: "CAP_CHOWN", OVERRIDE: "CAP_DAC_OVERRIDE", KILL: "CAP_KILL", NET: "CAP_NET_BIND_SERVICE"}
SETS = ("inheritable", "permitted", "effective", "bounding", "ambient")


def give(bundle: Bundle, **sets: int) -> None:
    """Capabilities as bits, all five sets."""
    bundle.process["capabilities"] = {
        name: [text for bit, text in NAMES.items() if sets.get(name, 0) & bit] for name in SETS
    }


def seen(runtime: Runtime, bundle: Bundle, name: str, program: str = "grep") -> dict[str, int]:
    """The sets that a program finds itself with."""
    bundle.process["args"] = [program, "^Cap", "/proc/self/status"]
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 0, result.err
    rows = [line.split() for line in result.out.splitlines()]
    return dict(zip(SETS, (int(value, 16) for _, value in rows), strict=True))


ALL = CHOWN | OVERRIDE | KILL | NET
CASES: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "root": (0, dict.fromkeys(SETS[1:4], KILL | NET), dict.fromkeys(SETS[1:4], KILL | NET)),
    "root, less effective than bounding": (
        0,
        {"bounding": ALL, "permitted": KILL, "effective": KILL},
        {"bounding": ALL, "permitted": ALL, "effective": ALL},
    ),
    "root, inheritable": (
        0,
        {"bounding": NET, "inheritable": NET, "permitted": NET, "effective": NET},
        {"bounding": NET, "inheritable": NET, "permitted": NET, "effective": NET},
    ),
    "user, ambient": (1000, dict.fromkeys(SETS, KILL), dict.fromkeys(SETS, KILL)),
    "user, nothing ambient": (1000, dict.fromkeys(SETS[1:4], ALL), {"bounding": ALL}),
    "user, inheritable": (
        1000,
        dict.fromkeys(SETS[:4], OVERRIDE | KILL),
        {"bounding": OVERRIDE | KILL, "inheritable": OVERRIDE | KILL},
    ),
    "user, some ambient": (
        1000,
        {**dict.fromkeys(SETS[:4], OVERRIDE | KILL), "ambient": KILL},
        {
            "bounding": OVERRIDE | KILL,
            "inheritable": OVERRIDE | KILL,
            "ambient": KILL,
            "permitted": KILL,
            "effective": KILL,
        },
    ),
    "user, may search and nothing inheritable": (
        1000,
        {**dict.fromkeys(SETS[1:4], OVERRIDE | KILL), "inheritable": KILL, "ambient": KILL},
        {
            "bounding": OVERRIDE | KILL,
            "inheritable": KILL,
            "ambient": KILL,
            "permitted": KILL,
            "effective": KILL,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_capabilities_after_exec(runtime: Runtime, bundle: Bundle, name: str, case: str) -> None:
    uid, given, expected = CASES[case]
    bundle.process["user"] = {"uid": uid, "gid": uid}
    bundle.process["noNewPrivileges"] = False
    give(bundle, **given)
    assert seen(runtime, bundle, name) == dict.fromkeys(SETS, 0) | expected


@pytest.mark.parametrize("case", [case for case in CASES if case != "root, less effective than bounding"])
def test_capabilities_after_exec_without_new_privileges(
    runtime: Runtime, bundle: Bundle, name: str, case: str
) -> None:
    uid, given, expected = CASES[case]
    bundle.process["user"] = {"uid": uid, "gid": uid}
    give(bundle, **given)
    assert seen(runtime, bundle, name) == dict.fromkeys(SETS, 0) | expected


def test_no_new_privileges_keeps_root_to_what_it_has(runtime: Runtime, bundle: Bundle, name: str) -> None:
    give(bundle, bounding=ALL, permitted=KILL, effective=KILL)
    found = seen(runtime, bundle, name)
    assert (found["permitted"], found["effective"], found["bounding"]) == (KILL, KILL, ALL)


def make_setuid(bundle: Bundle) -> None:
    program = bundle.rootfs / "bin/setuid/grep"  # busybox does what its name says
    program.parent.mkdir()
    program.write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    program.chmod(0o4755)


def test_a_setuid_program(runtime: Runtime, bundle: Bundle, name: str) -> None:
    make_setuid(bundle)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["noNewPrivileges"] = False
    give(bundle, **dict.fromkeys(SETS, OVERRIDE | KILL))
    found = seen(runtime, bundle, name, "/bin/setuid/grep")
    assert found["bounding"] == OVERRIDE | KILL
    assert found["ambient"] == 0
    assert found["permitted"] == OVERRIDE | KILL


def close_to_others(bundle: Bundle) -> None:
    """A directory that only its owner, root, may search."""
    folder = bundle.rootfs / "closed"
    folder.mkdir()
    (folder / "grep").write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    (folder / "grep").chmod(0o700)
    folder.chmod(0o700)


def test_a_program_in_reach_by_an_ambient_capability(runtime: Runtime, bundle: Bundle, name: str) -> None:
    close_to_others(bundle)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    give(bundle, **dict.fromkeys(SETS, OVERRIDE))
    assert seen(runtime, bundle, name, "/closed/grep")["effective"] == OVERRIDE


def test_a_program_in_reach_by_a_capability_that_ends_with_the_exec(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    close_to_others(bundle)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    give(bundle, **dict.fromkeys(("bounding", "permitted", "effective"), OVERRIDE | KILL))
    expected = dict.fromkeys(SETS, 0) | {"bounding": OVERRIDE | KILL}
    assert seen(runtime, bundle, name, "/closed/grep") == expected


def test_a_program_out_of_reach(runtime: Runtime, bundle: Bundle, name: str) -> None:
    close_to_others(bundle)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    give(bundle, bounding=OVERRIDE)
    bundle.process["args"] = ["/closed/grep"]
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "permission denied" in result.err


SCRIPTS = {
    "exec format error": "\x7fELF but not really",
    "no such file or directory": "#!/no/such/interpreter\n",
}


@pytest.mark.parametrize("words", SCRIPTS)
def test_an_exec_that_fails(runtime: Runtime, bundle: Bundle, name: str, words: str) -> None:
    (bundle.rootfs / "bin/bad").write_text(SCRIPTS[words])
    (bundle.rootfs / "bin/bad").chmod(0o755)
    bundle.process["args"] = ["bad", "argument"]
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert f"exec /bin/bad: {words}" in result.err


def test_a_script_and_its_arguments(runtime: Runtime, bundle: Bundle, name: str) -> None:
    script = '#!/bin/sh\necho "$0 $1"; cat /proc/$$/comm; echo /proc/$$/fd/*\n'
    (bundle.rootfs / "bin/script").write_text(script)
    (bundle.rootfs / "bin/script").chmod(0o755)
    bundle.process["args"] = ["script", "with spaces"]
    said = runtime("run", "--bundle", bundle, name).out.splitlines()
    assert said[:2] == ["/bin/script with spaces", "script"]
    # 3 and 10 are the shell's: the folder it lists, and the script.
    assert {os.path.basename(fd) for fd in said[2].split()} == {"0", "1", "2", "3", "10"}


def allow_all_but(*names: str) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_ERRNO"}],
    }


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_filter_without_execveat(
    runtime: Runtime, bundle: Bundle, name: str, no_new_privileges: bool, uid: int
) -> None:
    who = {"uid": uid, "gid": uid}
    bundle.process.update({"noNewPrivileges": no_new_privileges, "cwd": "/bin", "user": who})
    bundle.linux["seccomp"] = allow_all_but("execveat", "mkdir", "mkdirat")
    give(bundle, **dict.fromkeys(SETS[1:4], OVERRIDE))
    bundle.shell("pwd; mkdir x; grep Seccomp: /proc/self/status; ls /proc/$$/fd")
    result = runtime("run", "--bundle", bundle, name)
    assert result.out.split()[:3] == ["/bin", "Seccomp:", "2"]
    assert "Operation not permitted" in result.err
    assert result.out.split()[3:6] == ["0", "1", "2"]
    assert len(result.out.split()) <= 7  # ash keeps one of its own


def test_a_filter_that_leaves_no_way(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["noNewPrivileges"] = False
    bundle.linux["seccomp"] = allow_all_but("execveat", "fchdir")
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "linux.seccomp allows neither execveat(2) nor fchdir(2)" in result.error
    assert not os.listdir(ours.root)
    assert not cgroups_named(name)
    bundle.process["noNewPrivileges"] = True
    assert ours("run", "--bundle", bundle, name).code == 0


def test_hooks_inside_the_container(runtime: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    (bundle.rootfs / "out").mkdir(mode=0o777)
    bundle.config["root"]["readonly"] = False
    bundle.linux["seccomp"] = allow_all_but("execveat")
    script = "cat > /out/state; echo $WORD > /out/word; grep -h Seccomp: /proc/self/status > /out/filter"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin", "WORD=x"]}
    bundle.config["hooks"] = {"startContainer": [hook]}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 0, result.err
    out = bundle.rootfs / "out"
    assert json.loads((out / "state").read_text())["id"] == name
    assert (out / "word").read_text() == "x\n"
    assert (out / "filter").read_text().split() == ["Seccomp:", "2"]


ABSENT = {"/no/such": "no such file or directory", "/etc": "permission denied"}


@pytest.mark.parametrize("path", ABSENT)
def test_a_hook_that_is_not_there(runtime: Runtime, bundle: Bundle, name: str, path: str) -> None:
    (bundle.rootfs / "etc").mkdir()
    bundle.config["hooks"] = {"startContainer": [{"path": path}]}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert f"error running hook #0: fork/exec {path}: {ABSENT[path]}" in result.err
