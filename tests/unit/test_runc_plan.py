"""The plan: what the runtime would do, read without doing it. No root, no kernel."""

from __future__ import annotations

import copy
import json
import subprocess
from typing import Any

import pytest

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound
from cutaway.linux import mounts as m
from cutaway.linux.capabilities import Sets
from cutaway.oci.document import decode
from cutaway.oci.runtime_spec import Spec, State
from cutaway.runc import sysctls
from cutaway.runc.commands import features, spec
from cutaway.runc.plan import (
    binds,
    build,
    cgroup_mounts,
    filters,
    mount_options,
    mounts,
    privileges,
    program,
    step,
    system,
    tree,
)
from cutaway.runc.plan.namespaces import NamespacePlan
from support.peers import need, peer


def config(**changes: Any) -> dict[str, Any]:
    found = copy.deepcopy(spec.default())
    for path, value in changes.items():
        place = found
        *parents, key = path.split("__")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
    return found


def plan_of(found: dict[str, Any], **around: Any) -> build.InitPlan:
    document = decode(Spec, found)
    state = State(oci_version="1", id="x", status="creating", bundle="/bundle")
    surroundings = build.Surroundings("x", "/bundle", state, Sets())
    surroundings.rootfs = "/bundle/rootfs"
    for name, value in around.items():
        setattr(surroundings, name, value)
    return build.init_plan(document, NamespacePlan(document.linux), surroundings)


def told(steps: list[step.Step]) -> list[str]:
    return [each.describe() for each in steps]


def test_the_default_configurations_plan_reads_like_this() -> None:
    kinds = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
    plan = plan_of(config(process__terminal=False, linux__namespaces=kinds))
    text = told(plan.before)
    assert text[:5] == [
        "enter 0 cgroups",
        "join a new session keyring _ses.x",
        "unshare the cgroup namespace",
        "bring lo up",
        "set hostname cutaway",
    ]
    assert text[5] == "prepare the root at /bundle/rootfs"
    assert text[6:8] == ["mount proc at /proc", "mount tmpfs at /dev"]
    assert "make device /dev/null (c 1:3)" in text
    assert "link /dev/ptmx to pts/ptmx" in text
    assert text[-3:] == [
        "tell the runtime (mounted)",
        "make / read-only",
        "change to the container's root by pivot_root",
    ]
    assert told(plan.after) == [
        "set umask 0022",
        "forbid new privileges",
        "set 2 environment variables",
        "become uid 0 gid 0 groups none in /",
        "find sh",
        "wait for the runtime",
    ]


def order_of_waiting(**changes: Any) -> tuple[list[str], list[str]]:
    """What stands before and after the wait for the runtime, the last and the first of it."""
    plan = plan_of(config(**changes), seccomp=(b"\0" * 8, 0))
    steps = [*plan.before, *plan.after]
    at = next(index for index, each in enumerate(steps) if isinstance(each, system.AwaitParent))
    return told(steps[at - 1 : at]), told(steps[at + 1 : at + 2])


def test_the_runtime_is_waited_for_as_late_as_the_filter_lets_it() -> None:
    """What the filter forbids is not known: it may be recvfrom(2)."""
    last = {"process__terminal": False, "process__noNewPrivileges": True}
    before, after = order_of_waiting(**last)
    assert before == ["find sh"]
    assert "seccomp" in after[0]
    before, after = order_of_waiting(**{**last, "process__noNewPrivileges": False})
    assert before == ["set 2 environment variables"]
    assert "seccomp" in after[0]


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_hooks_keep_their_order(name: str) -> None:
    hooks = {name: [{"path": "/bin/true"}]}
    before, _ = order_of_waiting(process__terminal=False, hooks=hooks)
    assert before == ["tell the runtime (mounted)"]


def test_a_terminal_is_not_opened_while_limits_are_set() -> None:
    """v1 forbids all devices before it allows some."""
    before, _ = order_of_waiting(process__terminal=True)
    assert before == ["tell the runtime (mounted)"]


def test_a_mount_label_goes_to_every_file_system_that_takes_one() -> None:
    """As runc has it: context= for tmpfs, devpts and the rest, masks too; mqueue's root gets it later."""
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    found = config(linux__maskedPaths=["/proc/acpi"], linux__mountLabel=label)
    found["mounts"].append({"destination": "/m", "type": "mqueue", "source": "mqueue"})
    plan = plan_of(found, mount_label=label, cgroup_views=[])
    by_place = {
        each.destination: each.data for each in plan.before if isinstance(each, mounts.MountFilesystem)
    }
    assert by_place["/dev"][-1] == by_place["/dev/pts"][-1] == f"context={label}"
    labelled = {place for place, data in by_place.items() if f"context={label}" in data}
    assert set(by_place) - labelled == {"/proc", "/sys", "/m", "/dev/mqueue"}
    (view,) = [each for each in plan.before if isinstance(each, cgroup_mounts.MountCgroupV1)]
    assert view.data == ["mode=755", f"context={label}"]
    (mask,) = [each for each in plan.before if isinstance(each, tree.MaskPath)]
    assert mask.data == [f"context={label}"]


def test_without_selinux_a_mount_label_is_nothing() -> None:
    """The parent leaves `Surroundings.mount_label` empty then."""
    plan = plan_of(config(linux__mountLabel="system_u:object_r:container_file_t:s0"))
    data = [each.data for each in plan.before if isinstance(each, mounts.MountFilesystem)]
    assert not any(option.startswith("context=") for options in data for option in options)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("kernel", "kernel"),
    ],
)
def test_names_of_kernel_parameters(key: str, path: str) -> None:
    assert sysctls.path(key) == path


def test_every_step_says_what_a_person_could_type() -> None:
    plan = plan_of(config(linux__sysctl={"net.ipv4.ip_forward": "1"}), seccomp=(b"x" * 80, 0))
    for each in (*plan.before, *plan.after):
        assert each.describe()
        assert each.command()
        assert each.group
    by_kind = {type(each): each for each in plan.before}
    assert by_kind[tree.MaskPath].command().startswith("mount --bind /dev/null $ROOT/")
    assert by_kind[mounts.MountFilesystem].command() == "mount -t sysfs sysfs $ROOT/sys"


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_the_filter_comes_last_or_before_the_rights_to_set_it_go(no_new_privileges: bool) -> None:
    plan = plan_of(config(process__noNewPrivileges=no_new_privileges), seccomp=(b"x" * 8, 0))
    kinds = [type(each) for each in plan.after]
    filter_, user = kinds.index(filters.InstallSeccomp), kinds.index(privileges.BecomeUser)
    assert (filter_ > user) == no_new_privileges
    assert (kinds[-1] is filters.InstallSeccomp) == no_new_privileges


def test_masks_and_hooks_are_done_before_the_root_changes_and_read_only_last() -> None:
    hook = {"path": "/bin/true"}
    plan = plan_of(config(hooks={"createContainer": [hook], "startContainer": [hook]}))
    text = told(plan.before)
    order = [
        "mask /sys/firmware",
        "tell the runtime (mounted)",
        "wait for the runtime",
        "run 1 createContainer hooks",
        "make / read-only",
    ]
    assert [line for line in text if line in order] == order
    assert told(plan.start_hooks) == ["run 1 startContainer hooks"]


def test_a_read_only_tmpfs_is_made_so_when_it_is_filled() -> None:
    found = config()
    found["mounts"].append({"destination": "/x", "type": "tmpfs", "source": "t", "options": ["ro"]})
    assert "make /x read-only" in told(plan_of(found).before)


def test_dev_is_not_filled_when_it_is_another_mounts() -> None:
    found = config()
    found["mounts"] = [{"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}]
    assert not any(line.startswith("make device") for line in told(plan_of(found).before))


def test_a_configured_device_replaces_the_default_and_ptmx_is_never_made() -> None:
    devices = [{"path": "/dev/null", "type": "c", "major": 9, "minor": 9}, {"path": "/dev/ptmx", "type": "c"}]
    text = [line for line in told(plan_of(config(linux__devices=devices)).before) if "device" in line]
    assert "make device /dev/null (c 9:9)" in text
    assert not any("1:3" in line or "ptmx" in line for line in text)


def test_bind_sources_are_opened_by_the_parent_for_a_user_namespace() -> None:
    found = config()
    found["mounts"] = [{"destination": "/x", "source": "data", "options": ["bind"]}]
    found["linux"]["namespaces"].append({"type": "user"})
    found["mounts"].append({"destination": "/y", "source": "rootfs/y", "options": ["bind"]})
    outside, inside = [each for each in plan_of(found).before if isinstance(each, binds.BindMount)]
    assert (outside.source, outside.outside) == ("/bundle/data", m.MS_SLAVE | m.MS_REC)
    assert inside.outside is None  # an earlier mount may lie over it


@pytest.mark.parametrize(
    ("entries", "flags", "bridge"),
    [
        ([{"type": "pid"}, {"type": "mount"}], 0x20020000, False),
        ([{"type": "cgroup"}], 0, False),
        ([{"type": "network", "path": "/n"}], 0, False),
        ([{"type": "network", "path": "/n"}, {"type": "pid", "path": "/p"}], 0, True),
        ([{"type": "time"}], 0, True),
        ([{"type": "user"}, {"type": "uts"}], 0x04000000, True),
    ],
)
def test_which_namespaces_one_clone_can_make(entries: list[Any], flags: int, bridge: bool) -> None:
    document = decode(Spec, config(linux__namespaces=entries))
    plan = NamespacePlan(document.linux)
    assert (plan.clone_flags, plan.needs_bridge) == (flags, bridge)


def test_the_hosts_owner_of_a_mapped_root() -> None:
    found = config(
        linux__namespaces=[{"type": "user"}],
        linux__uidMappings=[{"containerID": 0, "hostID": 1000, "size": 10}],
        linux__gidMappings=[
            {"containerID": 1, "hostID": 5, "size": 1},
            {"containerID": 0, "hostID": 7, "size": 1},
        ],
    )
    assert NamespacePlan(decode(Spec, found).linux).host_root() == (1000, 7)


@pytest.mark.parametrize(
    ("options", "flags", "clear", "data"),
    [
        (["nosuid", "ro", "size=1m"], m.MS_NOSUID | m.MS_RDONLY, 0, ["size=1m"]),
        (["ro", "rw"], 0, m.MS_RDONLY, []),
        (["rw", "ro"], m.MS_RDONLY, 0, []),
        (["rbind", "rprivate"], m.MS_BIND | m.MS_REC, 0, []),
        (["defaults", "exec"], 0, m.MS_NOEXEC, []),
    ],
)
def test_mount_options(options: list[str], flags: int, clear: int, data: list[str]) -> None:
    found = mount_options.parse(options)
    assert (found.flags, found.clear, found.data) == (flags, clear, data)


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("size=1m", ["size=1m"]),
        ("lowerdir=/a:/b,upperdir=/c", ["lowerdir=/a:/b", "upperdir=/c"]),
        ('context="u:r:t:s0:c1,c2",mode=700', ["context=u:r:t:s0:c1,c2", "mode=700"]),
        ("upperdir=/a\\,b,workdir=/w", ["upperdir=/a\\,b", "workdir=/w"]),
        (",,", []),
    ],
)
def test_several_options_in_one_text(option: str, parts: list[str]) -> None:
    assert mount_options.parse([option]).data == parts


def test_recursive_attributes_replace_the_atime_setting_as_a_whole() -> None:
    found = mount_options.parse(["rro", "rnoatime"])
    assert found.recursive_set == m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOATIME
    assert found.recursive_clear == m.MOUNT_ATTR_ATIME


class Failing(step.Step):
    """A step that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def describe(self) -> str:
        return "do the thing"

    def execute(self, here: step.Here) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "cls", "text"),
    [
        (
            OSError(2, "No such file or directory", "/x"),
            NotFound,
            "do the thing: /x: no such file or directory",
        ),
        (
            OSError(22, "mount x:/y: invalid argument"),
            FailedPrecondition,
            "do the thing: mount x:/y: invalid argument",
        ),
        (NotFound("nothing there"), NotFound, "do the thing: nothing there"),
    ],
)
def test_a_failing_step_says_what_it_was_about_to_do(
    error: Exception, cls: type[CutawayError], text: str
) -> None:
    with pytest.raises(cls) as caught:
        step.run([Failing(error)], step.Here())
    assert str(caught.value) == text


def test_programs_are_found_as_their_path_says(tmp_path: Any) -> None:
    file = tmp_path / "prog"
    file.write_text("")
    with pytest.raises(NotFound, match=r'exec: "prog": executable file not found in \$PATH'):
        program.find_program("prog", {"PATH": str(tmp_path)})
    file.chmod(0o755)
    assert program.find_program("prog", {"PATH": f"/nowhere:{tmp_path}"}) == str(file)
    assert program.find_program(str(file), {}) == str(file)


def test_environment_entries() -> None:
    assert program.environment(["A=1", "B=", "A=2=3"]) == {"A": "2=3", "B": ""}
    for bad in ("A", "=x", ""):
        with pytest.raises(InvalidArgument, match="invalid environment variable"):
            program.environment([bad])


def test_features_are_true_and_no_less_than_runcs() -> None:
    need("runc")
    reference = json.loads(subprocess.run([peer("runc"), "features"], check=True, capture_output=True).stdout)
    ours: Any = features.features()
    # No mount(2) flag stands behind these two (runc issue 3738); file systems that know them get them.
    assert set(reference["mountOptions"]) - {"acl", "noacl"} <= set(ours["mountOptions"])
    assert set(reference["linux"]["namespaces"]) <= set(ours["linux"]["namespaces"])
    assert set(reference["hooks"]) == set(ours["hooks"])
    assert set(reference) <= set(ours)
    for key in ("actions", "operators", "archs"):
        assert set(reference["linux"]["seccomp"][key]) <= set(ours["linux"]["seccomp"][key])
    assert set(ours["linux"]["seccomp"]["supportedFlags"]) <= set(ours["linux"]["seccomp"]["knownFlags"])
    # What an annotation may change of the host: runc 1.2 names these, and "bundle", which nothing reads here.
    assert ours["potentiallyUnsafeConfigAnnotations"] == ["org.systemd.property.", "org.criu.config"]
    assert ours["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"


def test_features_name_what_runtime_spec_added_since() -> None:
    found: Any = features.features()
    assert {"idmap", "ridmap", "tmpcopyup", "rro", "rnosymfollow"} <= set(found["mountOptions"])
    assert found["linux"]["mountExtensions"] == {"idmap": {"enabled": True}}
    assert found["linux"]["netDevices"] == {"enabled": True}
    assert found["linux"]["intelRdt"] == {"enabled": True, "schemata": True, "monitoring": True}
    assert set(found["linux"]["namespaces"]) == {
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    }  # fmt: skip


def test_the_default_configuration_is_valid_and_runcs_but_for_names() -> None:
    document = decode(Spec, spec.default())
    assert document.process is not None
    assert document.process.args == ["sh"]
    rootless = spec.default()
    spec.make_rootless(rootless)
    assert {"type": "user"} in rootless["linux"]["namespaces"]
    assert not any("gid=5" in mount.get("options", []) for mount in rootless["mounts"])
