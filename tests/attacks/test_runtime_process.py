"""Hostile programs and configurations: what a process of the container gets hold of, and what it does not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway.errors import CutawayError
from cutaway.linux.capabilities import Sets
from cutaway.oci.document import decode, loads
from cutaway.oci.runtime_spec import Spec, State
from cutaway.runc import validate
from cutaway.runc.plan import build
from cutaway.runc.plan.namespaces import NamespacePlan
from runc.bundles import Bundle, Runtime, cgroups_named, default_config


@pytest.mark.root
@pytest.mark.parametrize("number", range(3, 12))
def test_a_working_directory_in_a_descriptor_of_the_host(
    ours: Runtime, bundle: Bundle, name: str, number: int
) -> None:
    """CVE-2024-21626: a descriptor of the host's, still open, as the way out."""
    bundle.process["cwd"] = f"/proc/self/fd/{number}"
    result = ours("run", "--bundle", bundle.shell("ls -d ../../../etc/shadow; pwd"), name)
    assert "shadow" not in result.out
    assert result.code != 0 or result.out == f"/proc/self/fd/{number}\n"


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


# Hostile configurations.

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "/", "..", "/proc/self", "\0", "\ud800", "CAP_KILL", "bind", "0", "a" * 5000])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a configuration."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths_of(inner, (*path, key))
    return found


RICH: dict[str, Any] = default_config(Path("/tmp"))
RICH["hooks"] = {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=1"], "timeout": 3}]}
RICH["annotations"] = {"a": "b"}
RICH["domainname"] = "example"
RICH["process"] |= {
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
    "consoleSize": {"height": 1, "width": 2},
    "scheduler": {"policy": "SCHED_OTHER", "nice": 1},
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
    "oomScoreAdj": 5,
}
RICH["linux"] |= {
    "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
    "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
    "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
    "sysctl": {"net.ipv4.ip_forward": "1"},
    "timeOffsets": {"boottime": {"secs": 1}},
    "rootfsPropagation": "slave",
    "personality": {"domain": "LINUX"},
    "resources": {"memory": {"limit": 1}, "devices": [{"allow": False, "access": "rwm"}]},
    "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ERRNO"}],
    },
}
RICH["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}, {"type": "cgroup", "path": "/x"}]
PLACES = paths_of(RICH)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3))
def test_junk_anywhere_in_a_configuration_is_planned_or_refused_in_one_line(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    config = json.loads(json.dumps(RICH))
    for place, junk in changes:
        _put(config, place, junk)
    try:
        spec = decode(Spec, config, "config.json:")
        validate.spec(spec, "/")
        state = State(oci_version="1", id="x", status="creating", bundle="/")
        plan = build.init_plan(spec, NamespacePlan(spec.linux), build.Surroundings("x", "/", state, Sets()))
        for step in (*plan.before, *plan.after):
            assert step.describe()
            assert step.command()
            assert step.failure("reason")
    except CutawayError as error:
        assert "\n" not in str(error).replace("\\n", "")


def _put(config: Any, place: tuple[Any, ...], junk: Any) -> None:
    for key in place[:-1]:
        try:
            config = config[key]
        except (KeyError, IndexError, TypeError):
            return  # an earlier change has taken it away
    if isinstance(config, dict) or (isinstance(config, list) and place[-1] in range(len(config))):
        config[place[-1]] = junk


@given(st.binary(max_size=200))
def test_junk_for_a_whole_configuration_is_refused(text: bytes) -> None:
    with pytest.raises(CutawayError):
        loads(Spec, text, "config.json")


@pytest.mark.root
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=2))
def test_junk_leaves_nothing_on_the_machine(
    ours: Runtime, bundle: Bundle, name: str, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    config = json.loads(json.dumps(bundle.config))
    for place, junk in changes:
        _put(config, place, junk)
    (bundle.path / "config.json").write_text(json.dumps(config))
    result = ours("run", "--bundle", os.fspath(bundle.path), name)
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    assert not os.listdir(ours.root)
