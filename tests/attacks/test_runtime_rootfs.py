"""Hostile images: directories that are something else, files that lie, and races for what is in between."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks.rig import console_socket, untouched
from runc.bundles import Bundle, Runtime, cgroups_named
from support.process import wait_until

pytestmark = pytest.mark.root


def without_dev(bundle: Bundle) -> Bundle:
    """Let the image's own /dev stand."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    return bundle


def put(path: Path, what: str, outside: Path) -> None:
    """Something in the place of a directory."""
    if what == "file":
        path.write_text("")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    elif what == "link":
        path.symlink_to(outside)
    else:
        path.symlink_to("loop-" + path.name)
        (path.parent / f"loop-{path.name}").symlink_to(path.name)


@pytest.mark.parametrize("what", ["file", "fifo", "device", "loop"])
@pytest.mark.parametrize("folder", ["proc", "sys", "dev"])
def test_something_else_where_a_file_system_goes(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, folder: str, what: str
) -> None:
    put(bundle.rootfs / folder, what, outside)
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "Traceback" not in result.err
    assert folder in result.error
    assert not os.listdir(ours.root)
    assert not cgroups_named(name)
    assert untouched(outside)


@pytest.mark.parametrize("what", ["file", "fifo", "device", "loop", "link"])
@pytest.mark.parametrize("folder", ["dev", "etc"])
def test_something_else_where_nothing_is_mounted(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, folder: str, what: str
) -> None:
    put(bundle.rootfs / folder, what, outside)
    without_dev(bundle).linux["maskedPaths"] = []
    result = ours("run", "--bundle", bundle, name)
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    assert not os.listdir(ours.root)
    assert untouched(outside)


def test_a_user_list_behind_a_link_to_the_host(
    ours: Runtime, bundle: Bundle, name: str, outside: Path
) -> None:
    (outside / "passwd").write_text("root:x:0:0::/home-of-the-host:/bin/sh\n")
    for climb in (os.fspath(outside), "/.." * 20 + os.fspath(outside)):
        (bundle.rootfs / "etc").unlink(missing_ok=True)
        (bundle.rootfs / "etc").symlink_to(climb)
        assert ours("run", "--bundle", bundle.shell("echo $HOME"), name).out == "/\n"


@pytest.mark.parametrize("told", ["0\n", "-1\n", "nonsense", ""])
def test_an_image_that_lies_about_the_last_capability(
    ours: Runtime, bundle: Bundle, name: str, told: str
) -> None:
    """Who drops the bounding set up to there leaves the container with all of the host's capabilities."""
    lie = bundle.rootfs / "proc/sys/kernel/cap_last_cap"
    lie.parent.mkdir(parents=True)
    lie.write_text(told)
    bundle.config["mounts"][0]["destination"] = "/true"
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.process["noNewPrivileges"] = False
    bundle.process["args"] = ["grep", "^Cap[BEP]", "/true/self/status"]
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 0, result.err
    expected = f"{1 << 29 | 1 << 5 | 1 << 10:016x}"
    assert {line.split()[1] for line in result.out.splitlines()} == {expected}


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something over and over."""
    done = threading.Event()

    def again() -> None:
        while not done.is_set():
            work()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def swap(folder: Path, name: str, *targets: str) -> Callable[[], None]:
    """Make `name` lead to each target in turn, never absent."""

    def work() -> None:
        for target in targets:
            (folder / ".next").symlink_to(target)
            (folder / ".next").rename(folder / name)

    return work


def test_places_made_on_the_host_through_a_shared_volume(
    ours: Runtime, bundle: Bundle, name: str, place: Path, outside: Path
) -> None:
    """CVE-2024-45310: another container swaps a directory while the runtime makes what is below it."""
    volume = place / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "out").symlink_to(f"/{'../' * 20}{outside}")
    (volume / "a").symlink_to("real")
    source = place / "source"
    source.write_text("")
    bundle.mount("/volume", "none", os.fspath(volume), "bind")
    for index in range(20):
        bundle.mount(f"/volume/a/d{index}/deep/er", "tmpfs", "tmpfs")
        bundle.mount(f"/volume/a/f{index}/file", "none", os.fspath(source), "bind")
    bundle.process["cwd"] = "/volume/a/cwd/of/mine"
    bundle.write()
    with meanwhile(swap(volume, "a", "out", "real")):
        for attempt in range(5):
            ours("run", "--bundle", bundle.path, f"{name}-{attempt}")
    assert untouched(outside)


def test_a_multiplexer_of_another_file_system(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    """CVE-2025-52565: a device node of the image, which leads to the terminals that are mounted beside it."""
    without_dev(bundle)
    (bundle.rootfs / "dev/pts/pts").mkdir(parents=True)
    os.mknod(bundle.rootfs / "dev/pts/ptmx", stat.S_IFCHR | 0o666, os.makedev(5, 2))
    bundle.mount("/dev/pts/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")
    bundle.linux["maskedPaths"] = []
    bundle.process["terminal"] = True
    with console_socket(place) as console:
        result = ours.detached("create", "--bundle", bundle, "--console-socket", console, name)
    assert result.code == 1
    assert "/dev/pts/ptmx is not on a devpts file system" in result.error


@pytest.mark.parametrize(
    "destination", ["/proc/self/attr", "/proc/1/attr/exec", "/proc/sys/kernel", "/proc/self"]
)
def test_something_mounted_over_what_is_written_to(
    ours: Runtime, bundle: Bundle, name: str, place: Path, destination: str
) -> None:
    """CVE-2019-16884, CVE-2025-52881: a label or a sysctl would be written into the image's file."""
    fake = place / "fake"
    fake.mkdir()
    (fake / "exec").write_text("")
    source = fake / "exec" if destination.endswith("exec") else fake
    bundle.mount(destination, "none", os.fspath(source), "bind")
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "cannot be mounted because it is inside /proc" in result.error
    assert (fake / "exec").read_text() == ""


def test_sysctls_and_scores_reach_the_kernel_and_no_file_of_the_image(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    """CVE-2025-52881: the container's /proc is a directory of the image, with the same names in it."""
    lies = {
        "sys/kernel/domainname": "", "sys/net/ipv4/ip_forward": "0", "self/oom_score_adj": "0",
        "1/oom_score_adj": "0", "self/attr/exec": "", "self/uid_map": "", "self/setgroups": "",
        "self/timens_offsets": "",
    }  # fmt: skip
    for path, text in lies.items():
        (bundle.rootfs / "proc" / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle.rootfs / "proc" / path).write_text(text)
    bundle.config["mounts"][0]["destination"] = "/true"
    bundle.linux.update(maskedPaths=[], readonlyPaths=[], sysctl={"net.ipv4.ip_forward": "1"})
    bundle.namespace("time").linux["timeOffsets"] = {"boottime": {"secs": 1000}}
    bundle.config["root"]["readonly"] = False
    bundle.process["oomScoreAdj"] = 500
    bundle.shell(
        "cat /true/sys/net/ipv4/ip_forward /true/self/oom_score_adj; grep boottime /true/self/timens_offsets"
    )
    result = ours("run", "--bundle", bundle, name)
    assert result.out.split() == ["1", "500", "boottime", "1000", "0"], result.err
    assert all((bundle.rootfs / "proc" / path).read_text() == text for path, text in lies.items())


def test_a_time_namespace_within_a_mount_namespace_that_lies(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    """The clocks' offsets are written after a mount namespace was joined: its /proc is not believed."""
    lie = bundle.rootfs / "proc/self/timens_offsets"
    lie.parent.mkdir(parents=True)
    lie.write_text("")
    bundle.config["mounts"][0]["destination"] = "/true"
    bundle.linux.update(maskedPaths=[], readonlyPaths=[])
    bundle.config["root"]["readonly"] = False
    bundle.process["args"] = ["sleep", "1000"]
    assert ours.detached("run", "--detach", "--bundle", bundle, name).code == 0
    pid = ours.state(name)["pid"]
    assert Path(f"/proc/{pid}/root/proc/self/timens_offsets").read_text() == ""
    other = Bundle(place / "other").namespace("mount", f"/proc/{pid}/ns/mnt").namespace("time")
    other.linux["timeOffsets"] = {"boottime": {"secs": 1000}}
    result = ours("run", "--bundle", other, f"{name}-2")
    assert "timens_offsets" not in result.err
    assert lie.read_text() == ""


def test_a_fork_bomb_can_be_killed(ours: Runtime, bundle: Bundle, name: str) -> None:
    """Children that ignore signals, as many as the limit allows: kill ends them all."""
    bundle.linux["resources"] = {"pids": {"limit": 64}}
    bundle.shell("trap '' TERM INT HUP; (while :; do sleep 1000 & done) 2> /dev/null; exec sleep 1000")
    ours.detached("run", "--detach", "--bundle", bundle, name)
    (group,) = [path for path in cgroups_named(name) if (path / "pids.max").exists()]
    wait_until(lambda: int((group / "pids.current").read_text()) >= 60, "the bomb has gone off")
    assert int((group / "pids.current").read_text()) <= 64
    assert ours("kill", name, "KILL").code == 0
    ours.wait_for(name, "stopped")
    assert ours("delete", name).code == 0
    assert not cgroups_named(name)


def test_a_memory_hog_is_reported(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    bundle.shell("sleep 0.3; x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done")
    ours.detached("create", "--bundle", bundle, name)
    with subprocess.Popen(ours.command("events", name), stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        assert '"stats"' in events.stdout.readline()
        assert ours("start", name).code == 0
        ours.wait_for(name, "stopped")
        assert any('"oom"' in line for line in events.stdout)
        events.kill()
