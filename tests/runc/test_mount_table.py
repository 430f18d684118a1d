"""The container's whole mount table, ours beside runc's, for what real callers ask for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from support.leftovers import temporary_base
from support.peers import VENV_BIN, need, peer

pytestmark = [pytest.mark.root, pytest.mark.peers]

Change = Callable[[Bundle, Path], None]


def mount(destination: str, kind: str, source: str, *options: str) -> Change:
    """Add a mount; VOLUME in its source is a directory with a file."""

    def change(bundle: Bundle, volume: Path) -> None:
        bundle.mount(destination, kind, source.replace("VOLUME", os.fspath(volume)), *options)

    return change


def instead(*mounts: tuple[str, str, str, list[str]]) -> Change:
    """Have these mounts and no others."""

    def change(bundle: Bundle, volume: Path) -> None:
        bundle.config["mounts"] = []
        for destination, kind, source, options in mounts:
            mount(destination, kind, source, *options)(bundle, volume)

    return change


MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/fs/selinux",
]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
BASE: list[tuple[str, str, str, list[str]]] = [
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
]


def dockers(bundle: Bundle, volume: Path) -> None:
    """dockerd 20.10's defaults, with a read-only volume, a --tmpfs and an --init."""
    instead(
        *BASE,
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", ["ro", "nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/etc/resolv.conf", "bind", "VOLUME/file", ["rbind", "rprivate"]),
        ("/etc/hosts", "bind", "VOLUME/file", ["rbind", "rprivate"]),
        ("/data", "bind", "VOLUME", ["rbind", "ro", "rprivate"]),
        ("/run", "tmpfs", "tmpfs", ["noexec", "nosuid", "nodev", "size=64k"]),
        ("/sbin/docker-init", "bind", "VOLUME/file", ["bind", "ro"]),
    )(bundle, volume)
    bundle.linux.update(maskedPaths=MASKED, readonlyPaths=READONLY)
    bundle.config["root"]["readonly"] = False


def podmans(bundle: Bundle, volume: Path) -> None:
    """podman 4.3's defaults, --read-only (with its tmpfs over /run, /tmp, /var/tmp)."""
    own = ["rprivate", "nosuid", "noexec", "nodev", "relatime"]
    over = ["rprivate", "nosuid", "nodev", "tmpcopyup"]
    instead(
        *BASE,
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "bind", "VOLUME", ["bind", "rprivate", "nosuid", "noexec", "nodev"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*own, "ro"]),
        ("/run/.containerenv", "bind", "VOLUME/file", ["bind", "rprivate"]),
        ("/etc/hosts", "bind", "VOLUME/file", ["bind", "rprivate", "nosuid", "nodev"]),
        ("/tmp", "tmpfs", "tmpfs", over),
        ("/var/tmp", "tmpfs", "tmpfs", over),
    )(bundle, volume)
    bundle.namespace("cgroup").linux.update(maskedPaths=MASKED, readonlyPaths=READONLY)


def privileged(bundle: Bundle, volume: Path) -> None:
    """dockerd's --privileged: nothing hidden, cgroups and sysfs writable."""
    dockers(bundle, volume)
    for entry in bundle.config["mounts"]:
        if entry["destination"] in ("/sys", "/sys/fs/cgroup"):
            entry["options"] = [option for option in entry["options"] if option != "ro"]
    bundle.linux.update(maskedPaths=[], readonlyPaths=[])


def over_what_is_there(bundle: Bundle, volume: Path) -> None:
    """Links, files, nested mounts, lxcfs's files, a socket and a fifo."""
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / "etc/link").symlink_to("/made/by/link")
    (bundle.rootfs / "file").touch()
    os.mkfifo(volume / "fifo")
    (volume / "to-file").symlink_to("file")
    for change in (
        mount("/etc/link", "none", "VOLUME", "bind"),
        mount("/file", "none", "VOLUME/to-file", "bind", "ro"),
        mount("/fifo", "none", "VOLUME/fifo", "bind"),
        mount("/a", "tmpfs", "tmpfs", "mode=0700"),
        mount("/a/b", "tmpfs", "tmpfs", "ro"),
        mount("/a/b/c", "none", "VOLUME", "rbind", "ro", "nosuid"),
        mount("/proc/cpuinfo", "none", "VOLUME/file", "bind"),
        mount("/x/../../y/./z//", "tmpfs", "tmpfs"),
        mount("/other/proc", "proc", "proc"),
        mount("/other/sys", "sysfs", "sysfs", "ro"),
        mount("/other/pts", "devpts", "devpts", "newinstance"),
    ):
        change(bundle, volume)


def remounted(bundle: Bundle, volume: Path) -> None:
    for change in (
        mount("/mnt", "tmpfs", "tmpfs", "nosuid"),
        mount("/mnt", "tmpfs", "tmpfs", "remount", "ro", "size=1m"),
        mount("/proc", "proc", "proc", "remount", "ro", "noexec"),
        mount("/bound", "none", "VOLUME", "bind", "nodev"),
        mount("/bound", "none", "VOLUME", "bind", "remount", "ro", "nosuid"),
    ):
        change(bundle, volume)


def propagated(bundle: Bundle, volume: Path) -> None:
    for kind in ("private", "slave", "shared", "unbindable"):
        mount(f"/tmpfs-{kind}", "tmpfs", "tmpfs", kind)(bundle, volume)
        mount(f"/bind-{kind}", "none", "VOLUME", "rbind", f"r{kind}")(bundle, volume)
    mount("/both", "none", "VOLUME", "bind", "rshared", "rslave")(bundle, volume)


def with_every_flag(bundle: Bundle, volume: Path) -> None:
    """Each option of mount(8) that mountinfo shows, on a file system of its own."""
    for name in (
        "async", "atime", "dev", "diratime", "dirsync", "exec", "lazytime", "loud", "noatime", "nodev",
        "nodiratime", "noexec", "nolazytime", "norelatime", "nostrictatime", "nosuid", "relatime", "ro", "rw",
        "silent", "strictatime", "suid", "sync",
    ):  # fmt: skip
        mount(f"/mnt/{name}", "tmpfs", "tmpfs", name)(bundle, volume)
        mount(f"/bound/{name}", "none", "VOLUME", "bind", name)(bundle, volume)
    mount("/mnt/two", "tmpfs", "tmpfs", "noatime", "strictatime", "nodiratime")(bundle, volume)
    mount("/mnt/options", "tmpfs", "tmpfs", "size=1m,nr_inodes=100", "mode=700,uid=5")(bundle, volume)


def recursively(bundle: Bundle, volume: Path) -> None:
    for name in (
        "rro",
        "rnosuid",
        "rnodev",
        "rnoexec",
        "rnodiratime",
        "rnoatime",
        "rstrictatime",
        "rnosymfollow",
    ):
        mount(f"/{name}", "none", "VOLUME", "rbind", name)(bundle, volume)


def table(program: Path, change: Change, name: str) -> list[list[str]]:
    """The mounts of a container of this runtime: root, point, options, propagation, type, source, options."""
    with temporary_base() as base:
        (base / "root").mkdir()
        (base / "volume").mkdir()
        (base / "volume/file").write_text("volume\n")
        runtime, bundle = Runtime(program, base / "root"), Bundle(base / "bundle")
        change(bundle, base / "volume")
        try:
            result = runtime("run", "--bundle", bundle.shell("cat /proc/self/mountinfo"), name)
        finally:
            runtime.clean()
        assert (result.code, result.err) == (0, "")
        return [fields(line.replace(os.fspath(base), "BASE")) for line in result.out.splitlines()]


def fields(line: str) -> list[str]:
    before, _, after = line.partition(" - ")
    words, (kind, source, options) = before.split(), after.split()
    propagation = re.sub(r"\d+", "N", " ".join(words[6:]))
    return [*words[3:6], propagation, kind, source, ",".join(sorted(options.split(",")))]


@pytest.mark.parametrize(
    "change",
    [
        dockers, podmans, privileged, over_what_is_there, remounted, propagated, with_every_flag, recursively,
    ],
)  # fmt: skip
def test_the_mount_table_is_runcs(change: Change, name: str) -> None:
    need("root", "busybox", "runc")
    reference = table(peer("runc"), change, name)
    ours = table(VENV_BIN / "cutaway-runc", change, name)
    assert sorted(ours) == sorted(reference)
    assert without_hierarchies(ours) == without_hierarchies(reference)  # in the same order


def without_hierarchies(mounts: list[list[str]]) -> list[list[str]]:
    """All but the cgroup hierarchies, each in a directory of its own, whose order nothing depends on."""
    return [words for words in mounts if words[4] != "cgroup"]
