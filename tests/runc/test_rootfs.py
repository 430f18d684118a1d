"""The container's file system: mounts, devices, masks."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from runc.test_namespaces import map_ids
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]


def out(runtime: Runtime, bundle: Bundle, name: str) -> str:
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, "")
    return result.out


def mount_line(text: str, destination: str) -> list[str]:
    """The fields of the last mountinfo line for a mount point."""
    lines = [line.split() for line in text.splitlines()]
    return [fields for fields in lines if fields[4] == destination][-1]


def mountinfo(
    runtime: Runtime, bundle: Bundle, name: str, destination: str
) -> tuple[set[str], str, set[str]]:
    """Options, type and superblock options of a mount of the container."""
    fields = mount_line(out(runtime, bundle.shell("cat /proc/self/mountinfo"), name), destination)
    dash = fields.index("-")
    return set(fields[5].split(",")), fields[dash + 1], set(fields[dash + 3].split(","))


def test_the_root_is_the_bundles_and_read_only(runtime: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.rootfs / "mark").touch()
    result = runtime("run", "--bundle", bundle.shell("ls /mark; touch /x"), name)
    assert result.out == "/mark\n"
    assert result.err == "touch: /x: Read-only file system\n"


def test_the_root_is_writable_if_it_shall_be(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.config["root"]["readonly"] = False
    out(runtime, bundle.shell("echo hi > /x"), name)
    assert (bundle.rootfs / "x").read_text() == "hi\n"


def test_a_relative_root_is_the_bundles(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.config["root"]["path"] = "rootfs"
    assert runtime("run", "--bundle", bundle, name).code == 0


def test_nothing_of_the_hosts_mounts_is_left(runtime: Runtime, bundle: Bundle, name: str) -> None:
    text = out(runtime, bundle.shell("cat /proc/self/mountinfo"), name)
    points = {line.split()[4] for line in text.splitlines()}
    assert points - {"/proc/acpi"} == {"/", "/proc", "/dev", "/dev/pts", "/sys", "/proc/keys", "/proc/sys"}


@pytest.mark.parametrize(
    ("options", "on", "off"),
    [
        (["ro", "nosuid"], {"ro", "nosuid", "relatime"}, {"noexec"}),
        (["noexec", "nodev", "noatime"], {"rw", "noexec", "nodev", "noatime"}, {"relatime"}),
        (["ro", "rw"], {"rw"}, {"ro"}),
        (["strictatime"], {"rw"}, {"relatime", "noatime"}),
    ],
)
def test_options_of_a_tmpfs(
    runtime: Runtime, bundle: Bundle, name: str, options: list[str], on: set[str], off: set[str]
) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs", *options, "size=1m")
    found, kind, superblock = mountinfo(runtime, bundle, name, "/mnt")
    assert kind == "tmpfs"
    assert on <= found
    assert not off & found
    assert "size=1024k" in superblock


def test_a_new_tmpfs_is_open_to_all_and_one_over_a_directory_is_as_that(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    (bundle.rootfs / "there").mkdir(mode=0o750)
    bundle.mount("/there", "tmpfs", "tmpfs").mount("/new", "tmpfs", "tmpfs")
    assert out(runtime, bundle.shell("stat -c %a /there /new"), name) == "750\n1777\n"


def test_tmpcopyup_fills_a_tmpfs(runtime: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.rootfs / "etc/sub").mkdir(parents=True)
    (bundle.rootfs / "etc/sub/file").write_text("content\n")
    (bundle.rootfs / "etc/link").symlink_to("sub/file")
    os.chown(bundle.rootfs / "etc/sub/file", 5, 6)
    bundle.mount("/etc", "tmpfs", "tmpfs", "tmpcopyup")
    script = "cat /etc/link; stat -c %u:%g /etc/sub/file; echo more > /etc/new && echo written"
    assert out(runtime, bundle.shell(script), name) == "content\n5:6\nwritten\n"
    assert not (bundle.rootfs / "etc/new").exists()


@pytest.fixture
def volume(place: Path) -> Path:
    path = place / "volume"
    path.mkdir()
    (path / "file").write_text("volume\n")
    return path


def test_bind_mounts(runtime: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    bundle.mount("/made/for/it", "none", os.fspath(volume), "bind")
    bundle.mount("/file", "bind", os.fspath(volume / "file"), "rbind", "ro")
    out(runtime, bundle.shell("cat /file; echo x > /made/for/it/written"), name)
    assert (volume / "written").read_text() == "x\n"


def test_a_relative_source_is_the_bundles(runtime: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.path / "data").mkdir()
    (bundle.path / "data/file").write_text("relative\n")
    bundle.mount("/mnt", "none", "data", "bind")
    assert out(runtime, bundle.shell("cat /mnt/file"), name) == "relative\n"


@pytest.mark.parametrize(
    ("options", "on"),
    [
        (["bind", "ro"], {"ro"}),
        (["rbind", "ro", "rprivate"], {"ro"}),
        (["bind", "noexec", "nosuid", "nodev"], {"rw", "noexec", "nosuid", "nodev"}),
        (["rbind", "rro"], {"ro"}),
    ],
)
def test_options_of_a_bind_mount(
    runtime: Runtime, bundle: Bundle, name: str, volume: Path, options: list[str], on: set[str]
) -> None:
    bundle.mount("/mnt", "none", os.fspath(volume), *options)
    assert on <= mountinfo(runtime, bundle, name, "/mnt")[0]


@pytest.fixture
def guarded(place: Path) -> Iterator[Path]:
    """A file system mounted with every flag that protects."""
    path = place / "guarded"
    path.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "cw-test", path], check=True)
    flags = "remount,bind,ro,nosuid,nodev,noexec,noatime"
    subprocess.run(["mount", "-o", flags, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (["bind"], {"ro", "nosuid", "nodev", "noexec", "noatime"}),
        (["bind", "nosuid"], {"rw", "nosuid", "noatime"}),
        (["bind", "relatime", "ro"], {"ro", "relatime"}),
        (["bind", "strictatime"], {"rw"}),
        (["bind", "nodiratime"], {"rw", "nodiratime", "relatime"}),
    ],
)
def test_a_bind_has_the_sources_flags_or_those_asked_for(
    runtime: Runtime, bundle: Bundle, name: str, guarded: Path, options: list[str], flags: set[str]
) -> None:
    """mount(8)'s way: one option on flags replaces them all, but the atime setting."""
    bundle.mount("/mnt", "none", os.fspath(guarded), *options)
    assert mountinfo(runtime, bundle, name, "/mnt")[0] == flags


@pytest.mark.parametrize("options", [["bind", "exec"], ["bind", "rw", "atime"]])
def test_a_flag_taken_away_replaces_them_as_well(
    ours: Runtime, bundle: Bundle, name: str, guarded: Path, options: list[str]
) -> None:
    """As in runc 1.2; 1.1 does nothing at all."""
    bundle.mount("/mnt", "none", os.fspath(guarded), *options)
    assert mountinfo(ours, bundle, name, "/mnt")[0] == {"rw", "noatime"}


def test_a_user_namespace_keeps_the_flags_that_protect(
    ours: Runtime, bundle: Bundle, name: str, guarded: Path
) -> None:
    """As the kernel has it; runc 1.1 fails here (runc 1.2 does the same)."""
    guarded.parent.chmod(0o711)
    map_ids(bundle).mount("/mnt", "none", os.fspath(guarded), "bind", "relatime", "nosymfollow")
    found = mountinfo(ours, bundle, name, "/mnt")[0]
    assert found == {"ro", "nosuid", "nodev", "noexec", "relatime", "nosymfollow"}
    bundle.config["mounts"][-1]["options"] = ["bind", "rw", "exec"]
    assert ours("run", "--bundle", bundle, name).error == (
        "runc run failed: unable to start container process: error during container init: "
        f'error mounting "{guarded}" to rootfs at "/mnt": '
        "cannot clear locked flags MS_RDONLY|MS_NOEXEC: operation not permitted"
    )


def test_a_link_in_the_way_is_followed_inside_the_root(
    runtime: Runtime, bundle: Bundle, name: str, volume: Path
) -> None:
    (bundle.rootfs / "var").mkdir()
    (bundle.rootfs / "var/link").symlink_to("/real")
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / "etc/resolv.conf").symlink_to("../run/resolved/stub.conf")  # as in many images
    bundle.mount("/var/link/sub", "none", os.fspath(volume), "bind")
    bundle.mount("/etc/resolv.conf", "none", os.fspath(volume / "file"), "bind")
    script = "cat /real/sub/file /etc/resolv.conf /run/resolved/stub.conf"
    assert out(runtime, bundle.shell(script), name) == "volume\n" * 3


@pytest.mark.parametrize("destination", ["/", "/.", "/link"])
@pytest.mark.parametrize(("kind", "options"), [("tmpfs", []), ("none", ["bind"])])
def test_nothing_covers_the_root(
    ours: Runtime, bundle: Bundle, name: str, volume: Path, destination: str, kind: str, options: list[str]
) -> None:
    """What is mounted afterwards would go below it. runc 1.1 fails as well, elsewhere."""
    (bundle.rootfs / "link").symlink_to("..")
    result = ours("run", "--bundle", bundle.mount(destination, kind, os.fspath(volume), *options), name)
    assert f'mountpoint "{bundle.rootfs}" is on the top of rootfs "{bundle.rootfs}"' in result.error


def test_a_remount_of_what_is_no_mount(ours: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.rootfs / "mnt").mkdir()
    result = ours("run", "--bundle", bundle.mount("/mnt", "tmpfs", "tmpfs", "remount", "size=1m"), name)
    assert result.error.endswith("mount :/mnt, flags: 0x20, data: size=1m: invalid argument")


def test_recursive_options_that_give_the_atime_back(
    ours: Runtime, bundle: Bundle, name: str, guarded: Path
) -> None:
    """runc passes these to the kernel as they are, which refuses them."""
    bundle.mount("/mnt", "none", os.fspath(guarded), "rbind", "ratime", "rrw", "rexec")
    assert mountinfo(ours, bundle, name, "/mnt")[0] == {"rw", "nosuid", "nodev", "relatime"}


def test_mounts_are_made_in_order(runtime: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs").mount("/mnt/inner", "none", os.fspath(volume), "bind")
    assert out(runtime, bundle.shell("cat /mnt/inner/file"), name) == "volume\n"


def test_propagation(runtime: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    bundle.mount("/mnt", "none", os.fspath(volume), "bind", "shared")
    fields = mount_line(out(runtime, bundle.shell("cat /proc/self/mountinfo"), name), "/mnt")
    assert any(field.startswith("shared:") for field in fields[6:])


def test_a_bind_mount_with_a_file_systems_options_goes_without_them(
    runtime: Runtime, bundle: Bundle, name: str, volume: Path
) -> None:
    bundle.mount("/mnt", "none", os.fspath(volume), "mode=755", "bind", "size=1k")
    result = runtime("run", "--bundle", bundle.shell("cat /mnt/file"), name)
    assert (result.code, result.out) == (0, "volume\n")
    assert ("mode=755,size=1k has no effect" in result.err) == runtime.ours


# runc 1.1 leaves "shared" and "unbindable" without effect; runc 1.3 does not.
@pytest.mark.parametrize("wanted", ["shared", "rshared", "slave", "private", "unbindable"])
def test_propagation_of_the_root(ours: Runtime, bundle: Bundle, name: str, wanted: str) -> None:
    bundle.linux["rootfsPropagation"] = wanted
    fields = mount_line(out(ours, bundle.shell("cat /proc/self/mountinfo"), name), "/")
    assert any(field.startswith("shared:") for field in fields[6:]) == (wanted in ("shared", "rshared"))
    assert ("unbindable" in fields) == (wanted == "unbindable")


def test_default_devices_and_links(runtime: Runtime, bundle: Bundle, name: str) -> None:
    script = (
        "cd /dev; stat -c '%n %t:%T %a' full null random tty urandom zero; "
        "for each in fd stdin stdout stderr ptmx; do readlink $each; done"
    )
    assert out(runtime, bundle.shell(script), name).splitlines() == [
        "full 1:7 666", "null 1:3 666", "random 1:8 666", "tty 5:0 666", "urandom 1:9 666", "zero 1:5 666",
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx",
    ]  # fmt: skip


def test_devices_of_the_configuration(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/deep/pipe", "type": "p", "fileMode": 0o600},
    ]
    script = "stat -c '%t:%T %a %u:%g' /dev/mine; stat -c '%F %a' /dev/deep/pipe"
    assert out(runtime, bundle.shell(script), name) == "1:3 640 5:6\nfifo 600\n"


def test_devices_in_a_user_namespace(ours: Runtime, bundle: Bundle, name: str) -> None:
    """Bound from the host where it has them; runc fails for others, and for fifos."""
    bundle.linux["devices"] = [
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 5, "gid": 6},
        {"path": "/dev/deep/pipe", "type": "p", "fileMode": 0o600, "uid": 7},
        {"path": "/dev/block", "type": "b", "major": 7, "minor": 99},
    ]
    script = (
        "cd /dev; stat -c '%n %t:%T %a %u:%g' null mine; stat -c '%n %F %a %u' deep/pipe block; "
        "head -c 3 mine | wc -c"
    )
    assert out(ours, map_ids(bundle).shell(script), name).splitlines() == [
        "null 1:3 666 65534:65534", "mine 1:5 644 5:6", "deep/pipe fifo 600 7",
        "block block special file 666 0", "3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("there", "mapped", "why"),
    [
        ("file", False, "something else is there already, not device c 1:5"),
        ("other device", False, "something else is there already, not device c 1:5"),
        ("link", False, "something else is there already, not device c 1:5"),
        ("link", True, "a symbolic link is there already"),
        ("directory", True, "a directory is there already"),
    ],
)
def test_something_else_where_a_device_shall_be(
    ours: Runtime, bundle: Bundle, name: str, there: str, mapped: bool, why: str
) -> None:
    """The specification wants an error; runc takes whatever is there."""
    made = bundle.rootfs / "made"
    made.mkdir()
    if there == "file":
        (made / "here").touch()
    elif there == "link":
        (made / "here").symlink_to("/etc/target")
    elif there == "directory":
        (made / "here").mkdir()
    else:
        os.mknod(made / "here", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    bundle.linux["devices"] = [{"path": "/made/here", "type": "c", "major": 1, "minor": 5}]
    if mapped:
        os.chown(made, 200000, 200000)
        map_ids(bundle)
    result = ours("run", "--bundle", bundle, name)
    assert result.error.endswith(f"error creating device nodes: /made/here: {why}")
    assert not (bundle.rootfs / "etc").exists()


def test_a_device_that_is_there_already_is_taken(runtime: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.rootfs / "made").mkdir()
    os.mknod(bundle.rootfs / "made/here", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    bundle.linux["devices"] = [{"path": "/made/here", "type": "c", "major": 1, "minor": 5}]
    assert out(runtime, bundle.shell("stat -c '%t:%T %a' /made/here"), name) == "1:5 600\n"


def test_the_hosts_null_device_is_not_handed_in(ours: Runtime, bundle: Bundle, name: str) -> None:
    """stdin is /dev/null: the container's, or a chmod through it would be everybody's. (In the foreground
    there is a pipe, as with runc.)"""
    told = bundle.path / "told"
    told.touch()
    bundle.config["mounts"].append({"destination": "/told", "source": str(told), "options": ["bind", "rw"]})
    (bundle.rootfs / "told").touch()
    script = "stat -L -c %i:%d /dev/null /proc/self/fd/0 > /told; sleep 1000"
    assert ours.detached("run", "--detach", "--bundle", bundle.shell(script), name).code == 0
    wait_until(lambda: len(told.read_text().split()) == 2, "both are told")
    own, handed = told.read_text().split()
    assert own == handed


def test_dev_of_the_hosts_is_left_alone(runtime: Runtime, bundle: Bundle, name: str, volume: Path) -> None:
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "bind", os.fspath(volume), "bind")
    os.mknod(volume / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert runtime("run", "--bundle", bundle, name).code == 0
    assert sorted(os.listdir(volume)) == ["file", "null"]


def test_masked_and_readonly_paths(runtime: Runtime, bundle: Bundle, name: str) -> None:
    script = "cat /proc/keys; ls /proc/acpi 2>/dev/null; echo 1 > /proc/sys/vm/overcommit_memory"
    result = runtime("run", "--bundle", bundle.shell(script), name)
    assert result.out == ""
    assert "Read-only file system" in result.err


def test_a_masked_directory_is_empty(runtime: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.rootfs / "secret").mkdir()
    (bundle.rootfs / "secret/file").touch()
    bundle.linux["maskedPaths"].append("/secret")
    result = runtime("run", "--bundle", bundle.shell("ls -A /secret; touch /secret/x"), name)
    assert (result.out, result.err) == ("", "touch: /secret/x: Read-only file system\n")


def test_the_cgroup_view_is_the_containers_own(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    bundle.process["args"] = ["sh", "-c", "cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs"]
    assert runtime("run", "--bundle", bundle, name).out.split()[0] == "1"


def test_the_cgroup_view_is_read_only_if_it_shall_be(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro")
    script = "cd /sys/fs/cgroup; test -d pids && cd pids; mkdir inner"
    result = runtime("run", "--bundle", bundle.shell(script), name)
    assert "Read-only file system" in result.err


def test_no_pivot(runtime: Runtime, bundle: Bundle, name: str) -> None:
    result = runtime("run", "--no-pivot", "--bundle", bundle.shell("ls /bin/busybox"), name)
    assert result.out == "/bin/busybox\n"


def test_no_pivot_goes_not_with_a_private_root(ours: Runtime, bundle: Bundle, name: str) -> None:
    """As in runc 1.4."""
    bundle.linux["rootfsPropagation"] = "rprivate"
    assert ours("run", "--no-pivot", "--bundle", bundle, name).error == (
        "runc run failed: rootfsPropagation of [r]private is not safe without pivot_root"
    )


@pytest.mark.parametrize(
    ("wanted", "root", "below"),
    [
        ("shared", "shared:", ""),
        ("rshared", "shared:", "shared:"),
        ("runbindable", "unbindable", "unbindable"),
    ],
)
def test_the_roots_propagation(
    ours: Runtime, bundle: Bundle, name: str, wanted: str, root: str, below: str
) -> None:
    """Of the container's own root: runc 1.1 sets it on the host's, and fails with unbindable."""
    bundle.linux["rootfsPropagation"] = wanted
    text = out(ours, bundle.shell("cat /proc/self/mountinfo"), name)
    for point, expected in (("/", root), ("/proc", below)):
        fields = mount_line(text, point)
        assert " ".join(fields[6 : fields.index("-")]).startswith(expected)
        assert bool(expected) == (fields[6] != "-")


def test_modes_are_not_those_of_the_callers_umask(ours: Runtime, bundle: Bundle, name: str) -> None:
    before = os.umask(0o077)
    try:
        out(ours, bundle.mount("/deep/down", "tmpfs", "tmpfs"), name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((bundle.rootfs / "deep").stat().st_mode) == 0o755
