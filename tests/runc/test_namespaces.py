"""Namespaces: new ones, others' by path, and what belongs to them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

FILES = {"network": "net", "mount": "mnt"}


def out(runtime: Runtime, bundle: Bundle, name: str) -> str:
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, "")
    return result.out


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup"])
def test_a_namespace_is_new_if_it_is_named(runtime: Runtime, bundle: Bundle, name: str, kind: str) -> None:
    file = f"/proc/self/ns/{FILES.get(kind, kind)}"
    found = out(runtime, bundle.namespace(kind).shell(f"readlink {file}"), name)
    assert found.strip() != os.readlink(file)


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "cgroup"])
def test_a_namespace_is_the_runtimes_if_it_is_not(
    runtime: Runtime, bundle: Bundle, name: str, kind: str
) -> None:
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != kind]
    file = f"/proc/self/ns/{FILES.get(kind, kind)}"
    if kind == "network":  # sysfs shows a network namespace, and only its owner may mount it
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "sysfs"]
    assert out(runtime, bundle.shell(f"readlink {file}"), name).strip() == os.readlink(file)


@pytest.fixture
def other() -> Iterator[int]:
    """A process with namespaces of its own, first in its pid namespace."""
    command = ["unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "sleep", "1000"]
    with subprocess.Popen(command) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(children.read_text().strip()), "unshare has forked")
        yield int(children.read_text())
        process.kill()


@pytest.mark.parametrize("kind", ["network", "uts", "ipc", "pid"])
def test_a_namespace_is_joined_by_its_path(
    runtime: Runtime, bundle: Bundle, name: str, other: int, kind: str
) -> None:
    file = FILES.get(kind, kind)
    bundle.namespace(kind, f"/proc/{other}/ns/{file}")
    found = out(runtime, bundle.shell(f"readlink /proc/self/ns/{file}"), name)
    assert found.strip() == os.readlink(f"/proc/{other}/ns/{file}")


def mounts_below(path: Path) -> list[str]:
    """The mount points of this mount namespace at a path and below."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == os.fspath(path) or point.startswith(f"{path}/")]


@pytest.fixture
def shared(ours: Runtime, bundle: Bundle) -> Iterator[Bundle]:
    """A bundle without any namespace of its own: its mounts are made among ours."""
    bundle.linux.update(namespaces=[], maskedPaths=[], readonlyPaths=[])
    del bundle.config["hostname"]
    yield bundle
    ours.clean()
    assert not mounts_below(bundle.path)


def test_without_a_mount_namespace_delete_unmounts(ours: Runtime, shared: Bundle, name: str) -> None:
    shared.process["args"] = ["sleep", "1000"]
    assert ours.detached("create", "--bundle", shared, name).code == 0
    pid = ours.state(name)["pid"]
    for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    assert os.readlink(f"/proc/{pid}/root") == os.fspath(shared.rootfs)
    assert os.fspath(shared.rootfs / "proc") in mounts_below(shared.rootfs)
    assert ours("start", name).code == 0
    assert ours("delete", "--force", name).code == 0
    assert mounts_below(shared.path) == []


def test_without_a_mount_namespace_exec_is_in_the_root_all_the_same(
    ours: Runtime, shared: Bundle, name: str
) -> None:
    shared.process["args"] = ["sleep", "1000"]
    (shared.rootfs / "mark").write_text("inside")
    ours.detached("create", "--bundle", shared, name)
    ours("start", name)
    assert ours("exec", name, "cat", "/mark").out == "inside"


def test_without_a_mount_namespace_a_mount_that_was_there_stays(
    ours: Runtime, shared: Bundle, name: str
) -> None:
    root = os.fspath(shared.rootfs)
    subprocess.run(["mount", "--bind", root, root], check=True, timeout=30)
    try:
        assert ours("run", "--bundle", shared.shell("exit 3"), name).code == 3
        assert mounts_below(shared.rootfs) == [root]
        shared.mount("/mnt", "nosuchfs", "x")
        assert ours("run", "--bundle", shared, name).code == 1
        assert mounts_below(shared.rootfs) == [root]
    finally:
        subprocess.run(["umount", root], check=True, timeout=30)


def test_without_a_mount_namespace_nothing_is_masked(ours: Runtime, shared: Bundle, name: str) -> None:
    shared.linux["maskedPaths"] = ["/proc/keys"]
    result = ours("run", "--bundle", shared, name)
    assert "unable to restrict sys entries without a private MNT namespace (" in result.error


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A process with every kind of namespace but a user one, its clock shifted."""
    command = [
        "unshare", "--net", "--uts", "--ipc", "--mount", "--cgroup", "--time", "--boottime", "7000000",
        "--pid", "--fork", "--kill-child", "sleep", "1000",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(children.read_text().strip()), "unshare has forked")
        yield int(children.read_text())
        process.kill()


JOINED = ("network", "uts", "ipc", "pid", "cgroup", "time", "mount")


@pytest.mark.parametrize("kinds", [JOINED, ("time",), ("cgroup",), ("mount",), ("pid", "time")], ids="+".join)
def test_namespaces_of_every_kind_are_joined_alone_and_together(
    ours: Runtime, bundle: Bundle, name: str, elsewhere: int, kinds: tuple[str, ...]
) -> None:
    for kind in kinds:
        bundle.namespace(kind, f"/proc/{elsewhere}/ns/{FILES.get(kind, kind)}")
    files = [FILES.get(kind, kind) for kind in kinds]
    links = " ".join(f"/proc/self/ns/{file}" for file in files)
    bundle.shell(f"for each in {links}; do readlink $each; done; ls /bin/busybox; cat /proc/uptime")
    *found, busybox, uptime = out(ours, bundle, name).splitlines()
    assert found == [os.readlink(f"/proc/{elsewhere}/ns/{file}") for file in files]
    assert busybox == "/bin/busybox"
    assert (float(uptime.split()[0]) > 7000000) == ("time" in kinds)


def test_exec_joins_what_was_joined(ours: Runtime, bundle: Bundle, name: str, elsewhere: int) -> None:
    for kind in ("network", "time"):
        bundle.namespace(kind, f"/proc/{elsewhere}/ns/{FILES.get(kind, kind)}")
    bundle.process["args"] = ["sleep", "1000"]
    assert ours.detached("run", "--detach", "--bundle", bundle, name).code == 0
    result = ours("exec", name, "sh", "-c", "readlink /proc/self/ns/net; readlink /proc/self/ns/time")
    assert result.out.split() == [os.readlink(f"/proc/{elsewhere}/ns/{file}") for file in ("net", "time")]


@pytest.mark.parametrize("kind", ["network", "mount"])
def test_a_namespace_named_twice(runtime: Runtime, bundle: Bundle, name: str, kind: str) -> None:
    bundle.linux["namespaces"].append({"type": kind})
    assert (
        f'malformed spec file: duplicated ns {{"{kind}" ""}}'
        in runtime("run", "--bundle", bundle, name).error
    )


@pytest.mark.parametrize(
    ("namespace", "why"),
    [
        ({}, "time namespace offsets specified, but time namespace isn't enabled in the config"),
        (
            {"type": "time", "path": "/proc/self/ns/time"},
            "time namespace enabled, but both namespace path and time offsets specified "
            "-- you may only provide one",
        ),
    ],
)
def test_offsets_need_a_new_time_namespace(
    ours: Runtime, bundle: Bundle, name: str, namespace: dict[str, str], why: str
) -> None:
    bundle.linux["namespaces"] += [namespace] if namespace else []
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": 1}}
    assert ours("run", "--bundle", bundle, name).error.startswith(
        f"runc run failed: {why} (linux.timeOffsets: "
    )


def test_loopback_is_up(runtime: Runtime, bundle: Bundle, name: str) -> None:
    assert (
        out(runtime, bundle.shell("cat /sys/class/net/lo/operstate /sys/class/net/lo/flags"), name).split()[1]
        == "0x9"
    )  # up, loopback


def test_hostname_and_sysctl(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345678"}
    bundle.shell("hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax")
    assert out(runtime, bundle, name) == "bundle\n1\n12345678\n"


def test_the_names_of_a_host(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.config["hostname"] = "a-host"
    bundle.linux["sysctl"] = {"kernel.domainname": "a.domain"}
    bundle.shell("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname")
    assert out(runtime, bundle, name) == "a-host\na.domain\n"


def test_a_domain_name_of_the_configurations_own(ours: Runtime, bundle: Bundle, name: str) -> None:
    """`domainname` came with runtime-spec 1.1."""
    bundle.config["domainname"] = "a.domain"
    assert out(ours, bundle.shell("cat /proc/sys/kernel/domainname"), name) == "a.domain\n"


@pytest.mark.parametrize(
    ("key", "without", "why"),
    [
        (
            "net.ipv4.ip_forward",
            "network",
            'sysctl "net.ipv4.ip_forward" not allowed in host network namespace',
        ),
        ("fs.mqueue.msg_max", "ipc", 'sysctl "fs.mqueue.msg_max" is not allowed in the hosts ipc namespace'),
        ("kernel.sem", "ipc", 'sysctl "kernel.sem" is not allowed in the hosts ipc namespace'),
        ("kernel.domainname", "uts", 'sysctl "kernel.domainname" is not in a separate kernel namespace'),
        ("vm.swappiness", "", 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        (
            "kernel.hostname",
            "",
            'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field',
        ),
    ],
)
def test_kernel_parameters_need_their_namespace(
    runtime: Runtime, bundle: Bundle, name: str, key: str, without: str, why: str
) -> None:
    bundle.linux["namespaces"] = [each for each in bundle.linux["namespaces"] if each["type"] != without]
    bundle.linux["sysctl"] = {key: "1"}
    if without == "uts":
        del bundle.config["hostname"]
    said, _, where = runtime("run", "--bundle", bundle, name).error.partition(" (")
    assert said.endswith(why)
    assert where.startswith(f"linux.sysctl.{key}: ") == runtime.ours


def test_kernel_parameters_with_slashes(ours: Runtime, bundle: Bundle, name: str) -> None:
    """runc 1.1 accepts such a name and then looks for a file of another one."""
    bundle.linux["sysctl"] = {"net/ipv4/conf/lo/rp_filter": "2", "net.ipv4.conf.lo.log_martians": "1"}
    bundle.shell("cat /proc/sys/net/ipv4/conf/lo/rp_filter /proc/sys/net/ipv4/conf/lo/log_martians")
    assert out(ours, bundle, name) == "2\n1\n"


def map_ids(bundle: Bundle) -> Bundle:
    """Make root of the container 200000 of the host, who owns the root directory and can reach it."""
    bundle.path.parent.chmod(0o711)
    os.chown(bundle.rootfs, 200000, 200000)
    mapping = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapping
    return bundle.namespace("user")


def test_a_user_namespace_with_its_maps(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.shell("cat /proc/self/uid_map /proc/self/gid_map; id; echo x > /dev/null; stat -c %u /dev/pts")
    found = out(runtime, map_ids(bundle), name).splitlines()
    assert [line.split() for line in found[:2]] == [["0", "200000", "65536"]] * 2
    assert found[2:] == ["uid=0 gid=0", "0"]


def test_bind_mounts_in_a_user_namespace_reach_what_root_may(
    runtime: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    (place / "closed/open").mkdir(parents=True)
    (place / "closed/open/file").write_text("reached\n")
    (place / "closed").chmod(0o700)
    map_ids(bundle).mount("/mnt", "none", os.fspath(place / "closed/open"), "bind", "ro")
    assert out(runtime, bundle.shell("cat /mnt/file"), name) == "reached\n"


def test_exec_joins_the_user_namespace(runtime: Runtime, bundle: Bundle, name: str) -> None:
    map_ids(bundle).process["args"] = ["sleep", "1000"]
    assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
    result = runtime("exec", name, "sh", "-c", "id; cat /proc/self/uid_map")
    assert result.out.split() == ["uid=0", "gid=0", "0", "200000", "65536"]


@pytest.fixture
def owner(ours: Runtime, place: Path, name: str) -> str:
    """The file of a running container's user namespace."""
    other = map_ids(Bundle(place / "owner"))
    other.process["args"] = ["sleep", "1000"]
    assert ours.detached("run", "--detach", "--bundle", other, f"{name}-owner").code == 0
    return f"/proc/{ours.state(f'{name}-owner')['pid']}/ns/user"


def test_a_user_namespace_is_joined_and_its_maps_need_not_be_repeated(
    ours: Runtime, bundle: Bundle, name: str, owner: str
) -> None:
    os.chown(bundle.rootfs, 200000, 200000)
    bundle.namespace("user", owner).shell("readlink /proc/self/ns/user; cat /proc/self/uid_map; id -u")
    assert out(ours, bundle, name).split() == [os.readlink(owner), "0", "200000", "65536", "0"]


def test_maps_beside_the_path_may_only_say_what_the_namespace_has(
    ours: Runtime, bundle: Bundle, name: str, owner: str
) -> None:
    map_ids(bundle).namespace("user", owner)
    result = ours("run", "--bundle", bundle, name)
    assert (result.code, result.error) == (0, "")
    assert "both a userns path to join and a matching userns mapping specified" in result.err
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 300000, "size": 65536}]
    assert ours("run", "--bundle", bundle, name).error == (
        "runc run failed: user namespaces enabled, but both namespace path and non-matching mapping "
        "specified -- you may only provide one"
    )


def test_the_runtimes_own_user_namespace_by_path(ours: Runtime, bundle: Bundle, name: str) -> None:
    result = ours("run", "--bundle", bundle.namespace("user", "/proc/self/ns/user"), name)
    assert "failed to setns into user namespace /proc/self/ns/user: invalid argument" in result.error


def test_what_a_user_namespace_mounts_does_not_reach_the_host(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    """The runtime opens the source in its own mount namespace: it must not stay in the host's peer group."""
    shared = place / "shared"
    shared.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "cw-test", shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        bundle.shell("grep ' /mnt ' /proc/self/mountinfo")
        fields = out(ours, map_ids(bundle).mount("/mnt", "none", os.fspath(shared), "bind"), name).split()
        assert fields[6].startswith("master:")
        assert not any(field.startswith("shared:") for field in fields)
    finally:
        subprocess.run(["umount", shared], check=True)


def test_time_offsets(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.namespace("time").linux["timeOffsets"] = {"boottime": {"secs": 7000000, "nanosecs": 5}}
    text = out(ours, bundle.shell("cat /proc/self/timens_offsets /proc/uptime"), name).split()
    assert text[3:6] == ["boottime", "7000000", "5"]
    assert float(text[6]) > 7000000


def test_time_offsets_in_a_user_namespace(ours: Runtime, bundle: Bundle, name: str) -> None:
    map_ids(bundle).namespace("time").linux["timeOffsets"] = {"monotonic": {"secs": 77}}
    assert "monotonic          77" in out(ours, bundle.shell("cat /proc/self/timens_offsets"), name)


def test_a_path_that_is_not_there(runtime: Runtime, bundle: Bundle, name: str) -> None:
    result = runtime("run", "--bundle", bundle.namespace("network", "/no/file"), name)
    assert result.error == (
        "runc run failed: unable to create new parent process: "
        "namespace path: lstat /no/file: no such file or directory"
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/etc/passwd", "is not a namespace (expected one of type network)"),
        ("/proc/self/ns/uts", "is a namespace of type uts, expected network"),
        ("/proc/self/ns", "is not a namespace (expected one of type network)"),
    ],
)
def test_a_path_of_another_kind_is_named(
    ours: Runtime, bundle: Bundle, name: str, path: str, why: str
) -> None:
    result = ours("run", "--bundle", bundle.namespace("network", path), name)
    assert result.error == f"runc run failed: linux.namespaces[4].path: {path} {why}"


def test_a_relative_path_is_refused(ours: Runtime, bundle: Bundle, name: str) -> None:
    result = ours("run", "--bundle", bundle.namespace("network", "netns"), name)
    assert result.error == "runc run failed: linux.namespaces[4].path: expected an absolute path, got 'netns'"


def test_without_a_pid_namespace_delete_ends_every_process(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "pid"]
    bundle.shell("sleep 1000 & exec sleep 1000")
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    pids = [int(pid) for pid in runtime("ps", "--format", "json", name).out.strip("[]\n").split(",")]
    wait_until(
        lambda: len(runtime("ps", "--format", "json", name).out.split(",")) == 2, "both processes are there"
    )
    pids = [int(pid) for pid in runtime("ps", "--format", "json", name).out.strip("[]\n").split(",")]
    assert runtime("delete", "--force", name).code == 0
    wait_until(lambda: not any(_runs(pid) for pid in pids), "all processes are gone")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    except OSError:
        return False
