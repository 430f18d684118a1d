"""Races that who looks first and uses afterwards loses for certain: names exchanged between any two calls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.rig import console_socket, untouched
from attacks.turns import Turns
from runc.bundles import Bundle, Runtime
from support.peers import VENV_BIN, need

pytestmark = pytest.mark.root


@pytest.fixture
def turns(place: Path) -> Turns:
    return Turns(place)


@pytest.fixture
def disturbed(turns: Turns, place: Path) -> Iterator[Runtime]:
    """Ours, with somebody in its way."""
    need("root", "busybox")
    (place / "root").mkdir()
    runtime = Runtime(turns.script, place / "root")
    yield runtime
    runtime.program = VENV_BIN / "cutaway-runc"
    runtime.clean()


@pytest.fixture
def volume(bundle: Bundle, place: Path, outside: Path) -> Path:
    """Shared with the attacker and mounted: `a` is a directory in it, or leads out of the root."""
    volume = place / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to(f"/{'../' * 20}{outside}")
    bundle.mount("/volume", "none", os.fspath(volume), "bind")
    return volume


@pytest.fixture
def devices(bundle: Bundle, place: Path) -> Path:
    """The container's /dev, that the attacker has too."""
    devices = place / "devices"
    devices.mkdir()
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "none", os.fspath(devices), "bind")
    bundle.linux["maskedPaths"] = []
    return devices


def test_mounts(
    disturbed: Runtime, bundle: Bundle, name: str, turns: Turns, volume: Path, outside: Path
) -> None:
    """CVE-2021-30465: the check sees a directory, the mount a link."""
    bundle.mount("/volume/a/new", "tmpfs", "tmpfs").mount("/volume/a/etc", "none", "/etc", "bind")
    bundle.write()
    with turns.exchanging(volume / "a", volume / "b") as paces:
        for number in paces:
            disturbed("run", "--bundle", bundle.path, f"{name}-{number}")
            assert untouched(outside)


def test_places_that_are_made(
    disturbed: Runtime, bundle: Bundle, name: str, turns: Turns, volume: Path, place: Path, outside: Path
) -> None:
    """CVE-2024-45310: directories and files to mount on, and the working directory."""
    (place / "source").write_text("")
    bundle.mount("/volume/a/d/deep/er", "tmpfs", "tmpfs")
    bundle.mount("/volume/a/f/file", "none", os.fspath(place / "source"), "bind")
    bundle.process["cwd"] = "/volume/a/cwd/of/mine"
    bundle.write()
    with turns.exchanging(volume / "a", volume / "b") as paces:
        for number in paces:
            disturbed("run", "--bundle", bundle.path, f"{name}-{number}")
            assert untouched(outside)


def test_the_null_device(disturbed: Runtime, bundle: Bundle, name: str, turns: Turns, devices: Path) -> None:
    """CVE-2025-31133: what was proven to be the null device is not what is bound over a masked path."""
    os.mknod(devices / "null", 0o20666, os.makedev(1, 3))
    (devices / "fake").write_text("not null")
    bundle.linux["maskedPaths"] = ["/proc/version", "/proc/uptime"]
    bundle.process["args"] = ["stat", "-L", "-c", "%t:%T", "/proc/version", "/proc/uptime"]
    bundle.write()
    outcomes = []
    with turns.exchanging(devices / "null", devices / "fake") as paces:
        for number in paces:
            result = disturbed("run", "--bundle", bundle.path, f"{name}-{number}", stdin="")
            outcomes.append(result.out.split() if result.code == 0 else result.error)
    for outcome in outcomes:
        assert outcome == ["1:3"] * 2 or "can't mask path" in outcome, outcome
    assert ["1:3"] * 2 in outcomes, "never got as far as the mask"


@pytest.mark.parametrize("names", [("pts", "other"), ("console", "link")])
def test_the_console(
    disturbed: Runtime, bundle: Bundle, name: str, turns: Turns, devices: Path, place: Path,
    outside: Path, names: tuple[str, str],
) -> None:  # fmt: skip
    """CVE-2025-52565: the terminal that was made is not what is bound, or not where."""
    for folder in ("pts", "other"):
        (devices / folder).mkdir()
        (devices / folder / "0").write_text("not a terminal")  # seen where no devpts is mounted
    (devices / "console").write_text("")
    (devices / "link").symlink_to(f"/{'../' * 20}{outside}/console")
    bundle.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620")
    bundle.process["terminal"] = True
    bundle.write()
    made = []
    one, other = (devices / each for each in names)
    with console_socket(place) as console, turns.exchanging(one, other) as paces:
        for number in paces:
            words = ("create", "--bundle", bundle.path, "--console-socket", console, f"{name}-{number}")
            if disturbed.detached(*words).code == 0:
                pid = disturbed.state(f"{name}-{number}")["pid"]
                made += [bound(line) for line in open_mounts(pid) if line.split()[4] == "/dev/console"]
            assert untouched(outside)
    assert made, "never got as far as the console"
    assert set(made) == {"devpts"}


def open_mounts(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


def bound(line: str) -> str:
    """The file system that a line of mountinfo is about."""
    return line.partition(" - ")[2].split()[0]


def test_proc(disturbed: Runtime, bundle: Bundle, name: str, turns: Turns, outside: Path) -> None:
    """CVE-2019-16884, CVE-2023-28642: /proc is a directory, then a link."""
    (bundle.rootfs / "proc").mkdir()
    (bundle.rootfs / "link").symlink_to("/elsewhere")
    (bundle.rootfs / "elsewhere").mkdir()
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.process["args"] = ["test", "-e", "/elsewhere/self"]
    bundle.write()
    with turns.exchanging(bundle.rootfs / "proc", bundle.rootfs / "link") as paces:
        for number in paces:
            assert disturbed("run", "--bundle", bundle.path, f"{name}-{number}").code == 1
