"""Hostile root directories: known ways out of a container by links and by files that are something else.

Each would succeed with a runtime that walks the container's paths by string, or that trusts what it finds.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks.rig import console_socket, untouched
from runc.bundles import Bundle, Runtime, cgroups_named

pytestmark = pytest.mark.root


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
@pytest.mark.parametrize("target", ["/", "/elsewhere", "{outside}"])
def test_proc_as_a_link(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, kind: str, target: str
) -> None:
    """CVE-2019-16884, CVE-2023-28642: with /proc elsewhere, what should confine by /proc does not."""
    place = "proc" if kind == "proc" else "sys"
    (bundle.rootfs / place).symlink_to(target.format(outside=outside))
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert f'filesystem "{kind}" must be mounted on ordinary directory' in result.error
    assert untouched(outside)
    assert not cgroups_named(name)


@pytest.mark.parametrize("link", ["{outside}", "../../../../../../../../{outside}"])
def test_a_mount_through_an_absolute_or_climbing_link(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, link: str
) -> None:
    (bundle.rootfs / "volume").symlink_to(link.format(outside=outside))
    bundle.mount("/volume/new", "tmpfs", "tmpfs").shell("touch /volume/new/x; ls /volume")
    assert ours("run", "--bundle", bundle, name).out == "new\n"
    assert untouched(outside)


def test_a_destination_that_climbs(ours: Runtime, bundle: Bundle, name: str, outside: Path) -> None:
    up = "/.." * 20
    bundle.mount(f"{up}{outside}/new", "tmpfs", "tmpfs")
    assert ours("run", "--bundle", bundle, name).code == 0
    assert untouched(outside)


def test_a_link_exchanged_while_mounts_are_made(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, place: Path
) -> None:
    """CVE-2021-30465: a directory is swapped for a link between the check and the mount."""
    volume = place / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "link").symlink_to(f"/{'../' * 20}{outside}")
    (volume / "a").symlink_to("real")
    bundle.mount("/volume", "none", os.fspath(volume), "bind")
    for index in range(20):
        bundle.mount(f"/volume/a/m{index}", "tmpfs", "tmpfs")
    bundle.write()
    with exchanging(volume):
        for attempt in range(5):
            ours("run", "--bundle", bundle.path, f"{name}-{attempt}")
    assert untouched(outside)


@contextmanager
def exchanging(volume: Path) -> Iterator[None]:
    """Meanwhile `a` leads now to `real`, now out of the root."""
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            for target in ("link", "real"):
                (volume / "next").symlink_to(target)
                (volume / "next").rename(volume / "a")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_device_that_is_a_link(ours: Runtime, bundle: Bundle, name: str, outside: Path) -> None:
    (bundle.rootfs / "dev").symlink_to(outside)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.linux["maskedPaths"] = []
    ours("run", "--bundle", bundle, name)
    assert untouched(outside)


def test_null_swapped_for_a_file(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, place: Path
) -> None:
    """CVE-2025-31133: whatever /dev/null leads to would be bound, writable, over each masked path."""
    devices = place / "devices"
    devices.mkdir()
    (devices / "null").symlink_to("/proc/sysrq-trigger")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "none", os.fspath(devices), "bind")
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "can't mask path /proc/keys" in result.error


def test_a_regular_file_for_null(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    devices = place / "devices"
    devices.mkdir()
    (devices / "null").write_text("not null")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "none", os.fspath(devices), "bind")
    result = ours("run", "--bundle", bundle, name)
    assert "/dev/null in the container is not the null device" in result.error


@pytest.mark.parametrize("ptmx", ["{outside}/file", "dev/pts/ptmx"])
def test_a_console_and_a_ptmx_that_are_links(
    ours: Runtime, bundle: Bundle, name: str, outside: Path, place: Path, ptmx: str
) -> None:
    """CVE-2025-52565: the terminal would be opened, and bound, wherever the links lead."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/pts").mkdir(parents=True)
    (bundle.rootfs / "dev/pts/ptmx").symlink_to(f"/{'../' * 20}{ptmx.format(outside=outside)}")
    (bundle.rootfs / "dev/console").symlink_to(outside / "console")
    bundle.linux["maskedPaths"] = []
    bundle.process["terminal"] = True
    with console_socket(place) as console:
        result = ours("create", "--bundle", bundle, "--console-socket", console, name)
    assert result.code == 1
    assert "allocate a terminal" in result.error
    assert untouched(outside)


@pytest.mark.parametrize("what", ["fifo", "directory", "endless", "device"])
def test_a_user_list_that_is_something_else(ours: Runtime, bundle: Bundle, name: str, what: str) -> None:
    passwd = bundle.rootfs / "etc/passwd"
    passwd.parent.mkdir()
    if what == "fifo":
        os.mkfifo(passwd)
    elif what == "directory":
        passwd.mkdir()
    elif what == "endless":
        with passwd.open("wb") as file:
            file.truncate(1 << 40)
    else:
        os.mknod(passwd, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    result = ours("run", "--bundle", bundle.shell("echo $HOME"), name)
    assert (result.code, result.out) == (0, "/\n")


def test_modules_of_the_interpreter_in_the_root(
    ours: Runtime, bundle: Bundle, name: str, outside: Path
) -> None:
    """An import after the change of root would run the container's code with the host's rights."""
    import cutaway

    trap = f"open('/trapped', 'w')\nopen({os.fspath(outside / 'file')!r}, 'w')\n"
    source = Path(cutaway.__file__).parent
    libraries = [Path(os.__file__).parent, source, source.parent, source / "runc", source / "linux"]
    for library in libraries:
        folder = bundle.rootfs / library.relative_to("/")
        folder.mkdir(parents=True, exist_ok=True)
        for module in ("hooks", "console", "json", "traceback", "encodings", "warnings", "signal", "re"):
            (folder / f"{module}.py").write_text(trap)
    bundle.config["root"]["readonly"] = False
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    bundle.process["args"] = ["/no-such-program"]
    ours("run", "--bundle", bundle, name)
    bundle.process["args"] = ["sleep", "1000"]
    ours.detached("run", "--detach", "--bundle", bundle, name)
    ours("exec", name, "/no-such-program")
    ours("exec", name, "true")
    assert not (bundle.rootfs / "trapped").exists()
    assert untouched(outside)
