"""The OCI document for a container's settings; compared with dockerd's: tests/engine/test_network_spec.py."""

from __future__ import annotations

import json

import pytest

from cutaway.engine.spec import build, defaults, resources
from cutaway.engine.spec.capabilities import ALL, DEFAULT
from cutaway.engine.spec.inputs import (
    BindMount,
    DeviceCgroupRule,
    DeviceMapping,
    Host,
    HostDevice,
    Limits,
    Namespaces,
    SpecInputs,
    ThrottleDevice,
    TmpfsMount,
    Ulimit,
)
from cutaway.errors import InvalidArgument
from cutaway.oci.document import dumps, loads
from cutaway.oci.runtime_spec import Linux, Mount, Process, Resources, Seccomp, Spec

V1 = Host(cgroup_version=1, capabilities=frozenset(ALL))
V2 = Host(cgroup_version=2, capabilities=frozenset(ALL))


def made(host: Host = V1, **settings: object) -> Spec:
    """The document for a container with some settings, once through JSON as a runtime reads it."""
    values: dict[str, object] = {"id": "abc", "args": ("sh",), **settings}
    spec = build.build(SpecInputs(**values), host)  # type: ignore[arg-type]
    return loads(Spec, dumps(spec), "config.json")


def linux(spec: Spec) -> Linux:
    assert spec.linux is not None
    return spec.linux


def process(spec: Spec) -> Process:
    assert spec.process is not None
    return spec.process


def limits(spec: Spec) -> Resources:
    found = linux(spec).resources
    assert found is not None
    return found


def seccomp(spec: Spec) -> Seccomp:
    found = linux(spec).seccomp
    assert found is not None
    return found


def mount(spec: Spec, destination: str) -> Mount:
    (found,) = [entry for entry in spec.mounts if entry.destination == destination]
    return found


def namespaces(spec: Spec) -> dict[str, str | None]:
    return {entry.type: entry.path for entry in linux(spec).namespaces}


def test_a_plain_container() -> None:
    spec = made(hostname="box", env=("A=b",))
    assert spec.hostname == "box"
    assert process(spec).args == ["sh"]
    assert process(spec).cwd == "/"
    assert process(spec).user.additional_gids == [0]
    caps = process(spec).capabilities
    assert caps is not None
    assert caps.bounding == caps.effective == caps.permitted == list(DEFAULT)
    assert caps.inheritable is None  # CVE-2022-24769
    assert linux(spec).cgroups_path == "/docker/abc"
    assert linux(spec).masked_paths == list(defaults.MASKED_PATHS)
    assert linux(spec).sysctl == defaults.NETWORK_SYSCTLS
    assert [entry.destination for entry in spec.mounts] == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
    ]  # fmt: skip
    assert "size=67108864" in mount(spec, "/dev/shm").options


def test_no_command_is_refused_in_docker_words() -> None:
    with pytest.raises(InvalidArgument, match="No command specified"):
        made(args=())


def test_cgroup_namespace_depends_on_the_version() -> None:
    assert "cgroup" not in namespaces(made(V1))
    assert "cgroup" in namespaces(made(V2))
    assert "cgroup" in namespaces(made(V1, namespaces=Namespaces(cgroup="private")))
    assert "cgroup" not in namespaces(made(V2, namespaces=Namespaces(cgroup="host")))


def test_host_namespaces_are_left_out() -> None:
    host = Namespaces(network="host", pid="host", ipc="host", uts="host")
    spec = made(namespaces=host, hostname="box", domainname="d")
    assert list(namespaces(spec)) == ["mount"]
    assert spec.hostname is None
    assert linux(spec).sysctl == {}
    assert mount(spec, "/dev/shm").source == "/dev/shm"


def test_joined_namespaces_have_paths() -> None:
    spec = made(namespaces=Namespaces(network="/run/netns/x", pid="/proc/7/ns/pid"))
    assert namespaces(spec)["network"] == "/run/netns/x"
    assert namespaces(spec)["pid"] == "/proc/7/ns/pid"
    with pytest.raises(InvalidArgument, match="uts namespace"):
        made(namespaces=Namespaces(uts="container:x"))


def test_sysctls() -> None:
    assert linux(made(domainname="d")).sysctl["kernel.domainname"] == "d"
    own = made(sysctls={"net.ipv4.ip_unprivileged_port_start": "80"})
    assert linux(own).sysctl["net.ipv4.ip_unprivileged_port_start"] == "80"
    with pytest.raises(InvalidArgument, match="not allowed in the host network namespace"):
        made(sysctls={"net.core.somaxconn": "1"}, namespaces=Namespaces(network="host"))


def test_privileged() -> None:
    disk = HostDevice("/dev/sda", "b", 8, 0, 0o660)
    host = Host(cgroup_version=1, capabilities=frozenset(ALL) - {"CAP_SYS_RESOURCE"}, devices=(disk,))
    spec = made(host, privileged=True)
    caps = process(spec).capabilities
    assert caps is not None
    assert set(caps.bounding or ()) == set(ALL) - {"CAP_SYS_RESOURCE"}
    assert linux(spec).seccomp is None
    assert linux(spec).masked_paths == linux(spec).readonly_paths == []
    assert [(rule.allow, rule.type, rule.access) for rule in limits(spec).devices or ()] == [
        (True, None, "rwm")
    ]
    assert [(node.path, node.major, node.file_mode) for node in linux(spec).devices] == [
        ("/dev/sda", 8, 0o660)
    ]
    assert "ro" not in mount(spec, "/sys").options
    assert "ro" not in mount(spec, "/sys/fs/cgroup").options


def test_privileged_keeps_paths_that_were_asked_for() -> None:
    assert linux(made(privileged=True, masked_paths=("/proc/x",))).masked_paths == ["/proc/x"]


def test_a_read_only_root() -> None:
    spec = made(readonly_rootfs=True, hosts_path="/h", privileged=False)
    assert spec.root is not None
    assert spec.root.readonly is True
    assert "ro" in mount(spec, "/sys/fs/cgroup").options
    assert "ro" in mount(spec, "/etc/hosts").options
    assert "ro" not in mount(spec, "/dev/shm").options
    assert "ro" not in mount(made(hosts_path="/h"), "/etc/hosts").options


def test_user_mounts_take_the_place_of_default_ones() -> None:
    spec = made(mounts=(BindMount("/my/shm", "/dev/shm", read_only=True), TmpfsMount("/run")))
    assert mount(spec, "/dev/shm").options == ["rbind", "ro", "rprivate"]
    assert mount(spec, "/run").options == ["noexec", "nosuid", "nodev", "rprivate"]
    whole = made(mounts=(BindMount("/dev", "/dev"),))
    assert [entry.destination for entry in whole.mounts if entry.destination.startswith("/dev")] == ["/dev"]


def test_mounts_come_after_what_they_are_in() -> None:
    spec = made(mounts=(BindMount("/a", "/x/y/z"), BindMount("/b", "/x")), hosts_path="/h")
    order = [entry.destination for entry in spec.mounts]
    assert order.index("/x") < order.index("/etc/hosts") < order.index("/x/y/z")


def test_a_users_own_etc_hosts_wins() -> None:
    spec = made(hosts_path="/h", mounts=(BindMount("/mine", "/etc/hosts"),))
    assert mount(spec, "/etc/hosts").source == "/mine"


def test_tmpfs_options_replace_what_contradicts_them() -> None:
    spec = made(mounts=(TmpfsMount("/t", ("size=1m", "exec", "size=2m", "ro")),))
    assert mount(spec, "/t").options == ["nosuid", "nodev", "rprivate", "exec", "size=2m", "ro"]


@pytest.mark.parametrize(
    ("propagation", "root"), [("rprivate", None), ("rslave", "rslave"), ("rshared", "shared")]
)
def test_propagation_asks_for_a_root_that_lets_it_through(propagation: str, root: str | None) -> None:
    spec = made(mounts=(BindMount("/a", "/b", propagation=propagation),))
    assert mount(spec, "/b").options == ["rbind", propagation]
    assert linux(spec).rootfs_propagation == root


def test_an_unknown_propagation_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="propagation"):
        made(mounts=(BindMount("/a", "/b", propagation="sideways"),))


def test_ipc_none_has_no_shm() -> None:
    spec = made(namespaces=Namespaces(ipc="none"), shm_path="/s")
    assert all(entry.destination != "/dev/shm" for entry in spec.mounts)
    assert namespaces(spec)["ipc"] is None


def test_init_goes_first_but_not_into_another_pid_namespace() -> None:
    spec = made(init_path="/usr/bin/tini")
    assert process(spec).args == ["/sbin/docker-init", "--", "sh"]
    assert mount(spec, "/sbin/docker-init").options == ["bind", "ro"]
    shared = made(init_path="/usr/bin/tini", namespaces=Namespaces(pid="host"))
    assert process(shared).args == ["sh"]


def test_terminal_and_size() -> None:
    spec = made(terminal=True, console_size=(24, 80))
    size = process(spec).console_size
    assert size is not None
    assert (size.height, size.width) == (24, 80)
    assert process(made(console_size=(24, 80))).console_size is None
    assert process(made(terminal=True, console_size=(0, 0))).console_size is None


def test_user_and_groups() -> None:
    user = process(made(uid=7, gid=8, additional_gids=(9, 8))).user
    assert (user.uid, user.gid, user.additional_gids) == (7, 8, [8, 9])


def test_limits() -> None:
    throttle = (ThrottleDevice(8, 0, 5),)
    wanted = Limits(
        memory=64 << 20,
        nano_cpus=1_500_000_000,
        cpu_shares=512,
        cpuset_cpus="0",
        pids=50,
        blkio_weight=300,
        blkio_read_bps=throttle,
    )
    found = limits(made(limits=wanted))
    assert found.memory is not None
    assert found.cpu is not None
    assert found.pids is not None
    assert found.block_io is not None
    assert (found.memory.limit, found.memory.swap) == (64 << 20, 128 << 20)
    assert (found.cpu.quota, found.cpu.period, found.cpu.shares) == (150_000, 100_000, 512)
    assert found.pids.limit == 50
    assert found.block_io.weight == 300
    assert [entry.rate for entry in found.block_io.throttle_read_bps_device or ()] == [5]


def test_no_limits_are_no_entries() -> None:
    found = limits(made(limits=Limits(cpu_shares=0, blkio_weight=0, memory=0)))
    assert (found.cpu, found.pids, found.block_io) == (None, None, None)
    assert limits(made(limits=Limits(pids=0))).pids is not None  # 0 asks for "unlimited"


def test_memory_swap_of_its_own_is_kept() -> None:
    found = limits(made(limits=Limits(memory=100, memory_swap=-1))).memory
    assert found is not None
    assert found.swap == -1


def test_oom_kill_disable_is_for_v1() -> None:
    asked = Limits(oom_kill_disable=True)
    assert limits(made(V2, limits=asked)).memory is None
    found = limits(made(V1, limits=asked)).memory
    assert found is not None
    assert found.disable_oom_killer is True


def test_update_leaves_devices_alone() -> None:
    found = resources.update(Limits(memory=100), V1)
    assert found.devices is None
    assert found.memory is not None


def test_negative_shares_are_refused_in_docker_words() -> None:
    with pytest.raises(InvalidArgument, match=r"invalid CPU shares \(-1\): value must be a positive integer"):
        made(limits=Limits(cpu_shares=-1))


def test_ulimits() -> None:
    (found,) = process(made(ulimits=(Ulimit("nofile", 10, -1),))).rlimits
    assert (found.type, found.soft, found.hard) == ("RLIMIT_NOFILE", 10, (1 << 64) - 1)


def test_devices() -> None:
    fuse = DeviceMapping(HostDevice("/dev/f", "c", 10, 229), "r")
    spec = made(devices=(fuse,), device_cgroup_rules=(DeviceCgroupRule("c", 42, None, "rm"),))
    assert [node.path for node in linux(spec).devices] == ["/dev/f"]
    rules = [(rule.type, rule.major, rule.minor, rule.access) for rule in limits(spec).devices or ()]
    assert rules[-2:] == [("c", 10, 229, "r"), ("c", 42, None, "rm")]
    assert rules[0] == (None, None, None, "rwm")
    with pytest.raises(InvalidArgument, match="invalid device mode: x"):
        made(devices=(DeviceMapping(HostDevice("/dev/f", "c", 10, 229), "x"),))


def names(found: Seccomp, action: str = "SCMP_ACT_ALLOW") -> set[str]:
    rules = found.syscalls or []
    return {name for rule in rules if rule.action == action and not rule.args for name in rule.names}


def test_the_default_profile_follows_capabilities() -> None:
    plain, admin = seccomp(made()), seccomp(made(cap_add=("SYS_ADMIN",)))
    assert plain.default_action == "SCMP_ACT_ERRNO"
    assert plain.architectures == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert {"read", "arch_prctl", "chroot", "ptrace"} <= names(plain)
    assert not {"mount", "unshare", "clone", "clone3", "bpf", "add_key"} & names(plain)
    assert {"mount", "unshare", "clone", "clone3"} <= names(admin)
    assert names(plain, "SCMP_ACT_ERRNO") == {"clone3"}
    assert not names(admin, "SCMP_ACT_ERRNO")
    assert "chroot" not in names(seccomp(made(cap_drop=("SYS_CHROOT",))))


def test_the_default_profile_follows_kernel_and_machine() -> None:
    old = Host(kernel=(4, 4), capabilities=frozenset(ALL))
    assert "ptrace" not in names(seccomp(made(old)))
    arm = Host(architecture="aarch64", capabilities=frozenset(ALL))
    found = seccomp(made(arm))
    assert found.architectures == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "arch_prctl" not in names(found)
    assert "set_tls" in names(found)


def test_sockets_of_virtual_machines_and_of_the_crypto_api_are_closed() -> None:
    rules = [rule for rule in seccomp(made()).syscalls or () if rule.names == ["socket"]]
    tests = [(arg.op, arg.value) for rule in rules for arg in rule.args or ()]
    assert tests == [("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40)]


def test_a_users_profile() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None}],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"name": "mkdir", "action": "SCMP_ACT_ERRNO"},
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["chown"], "action": "SCMP_ACT_ERRNO", "excludes": {"arches": ["amd64"]}},
            {"names": ["mount"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "4.0"}},
        ],
    }
    found = seccomp(made(seccomp=json.dumps(profile)))
    assert [rule.names for rule in found.syscalls or ()] == [["mkdir"], ["mount"]]
    assert found.architectures == ["SCMP_ARCH_X86_64"]
    assert found.flags == ["SECCOMP_FILTER_FLAG_LOG"]


def test_no_filter() -> None:
    assert linux(made(seccomp="unconfined")).seccomp is None
    assert linux(made(seccomp="{}")).seccomp is None
    without = Host(seccomp=False, capabilities=frozenset(ALL))
    assert linux(made(without)).seccomp is None
    with pytest.raises(InvalidArgument, match="seccomp is not enabled in your kernel"):
        made(without, seccomp='{"defaultAction": "SCMP_ACT_ALLOW"}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "seccomp profile: not valid JSON"),
        ('{"syscalls": [{"names": "x", "action": "y"}]}', r"seccomp profile:syscalls\[0\]\.names"),
        (
            '{"defaultAction": "a", "architectures": ["b"], "archMap": [{"architecture": "c"}]}',
            "use either 'architectures' or 'archMap'",
        ),
        ('{"syscalls": [{"name": "a", "names": ["b"], "action": "c"}]}', "use either 'name' or 'names'"),
        (
            '{"syscalls": [{"name": "a", "action": "c", "includes": {"minKernel": "x"}}]}',
            "invalid kernel version",
        ),
    ],
)
def test_bad_profiles_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        made(seccomp=text)


def test_the_parent_cgroup() -> None:
    assert linux(made(cgroup_parent="/work/")).cgroups_path == "/work/abc"
