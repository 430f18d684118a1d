"""The systemd cgroup driver, ours and runc's, on a real bus with a systemd that notes what it is told.

What systemd itself makes of it is asked in tests/vm/test_systemd.py.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway.linux import cgroups
from cutaway.linux.dbus.connection import Connection
from cutaway.linux.dbus.wire import Variant
from runc.bundles import Bundle, Config, Runtime, cgroups_named
from support import buses
from support.peers import VENV_BIN, need, peer

pytestmark = pytest.mark.root

MIB = 1 << 20
UNIFIED = cgroups.mode() == "unified"

# A machine on which systemd is process 1, as sd_booted(3) looks for it, and whose bus is the test's.
WRAPPER = """\
#!/bin/sh
export DBUS_SYSTEM_BUS_ADDRESS={address}
exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$@"' - \\
    {program} --systemd-cgroup "$@"
"""


@pytest.fixture
def address(place: Path) -> Iterator[str]:
    need("dbus-daemon")
    with buses.bus(place) as address:
        yield address


@pytest.fixture
def systemd(address: str) -> Iterator[buses.Systemd]:
    with buses.Systemd(address).running() as systemd:
        yield systemd


def wrapped(place: Path, program: Path, address: str) -> Runtime:
    script = place / "wrapped" / program.name
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        WRAPPER.format(address=shlex.quote(address), program=shlex.quote(str(program.absolute())))
    )
    script.chmod(0o755)
    root = place / f"root-{program.name}"
    root.mkdir()
    return Runtime(script, root)


@pytest.fixture(params=["cutaway-runc", "runc"])
def runtime(
    request: pytest.FixtureRequest, place: Path, address: str, systemd: buses.Systemd
) -> Iterator[Runtime]:
    """Ours, then the reference, told to use systemd."""
    need("root", "busybox")
    program = peer("runc") if request.param == "runc" else VENV_BIN / "cutaway-runc"
    runtime = wrapped(place, program, address)
    yield runtime
    runtime.clean()


@pytest.fixture
def ours(place: Path, address: str, systemd: buses.Systemd) -> Iterator[Runtime]:
    need("root", "busybox")
    runtime = wrapped(place, VENV_BIN / "cutaway-runc", address)
    yield runtime
    runtime.clean()


def start(runtime: Runtime, bundle: Bundle, name: str, resources: Config | None = None) -> str:
    """Start a container that sleeps; its unit."""
    bundle.linux["cgroupsPath"] = f"cwtest.slice:cw:{name}"
    bundle.linux["resources"] = resources or {}
    result = runtime.detached("run", "--detach", "--bundle", bundle.shell("sleep 1000"), name)
    assert result.code == 0, result.err
    return f"cw-{name}.scope"


def test_a_life_in_a_scope(runtime: Runtime, systemd: buses.Systemd, bundle: Bundle, name: str) -> None:
    unit = start(runtime, bundle, name, {"memory": {"limit": 64 * MIB}, "pids": {"limit": 30}})
    pid = runtime.state(name)["pid"]
    directories = cgroups_named(unit)
    assert len(directories) >= (1 if UNIFIED else 5)
    for directory in directories:
        assert directory.parent.name == "cwtest.slice"
        assert str(pid) in (directory / "cgroup.procs").read_text().split()
    assert systemd.units[unit]["Slice"] == Variant("s", "cwtest.slice")
    assert systemd.units[unit]["Delegate"] == Variant("b", True)
    assert systemd.set[unit]["TasksMax"] == Variant("t", 30)
    limits = {
        path.read_text()
        for directory in directories
        for path in directory.glob("memory.max" if UNIFIED else "memory.limit_in_bytes")
    }
    assert limits == {f"{64 * MIB}\n"}

    assert runtime("exec", name, "true").code == 0
    assert runtime("update", "--pids-limit", "44", "--memory", "32M", name).code == 0
    assert systemd.set[unit]["TasksMax"] == Variant("t", 44)
    assert [path.read_text() for directory in directories for path in directory.glob("pids.max")] == ["44\n"]
    assert runtime("pause", name).code == 0
    assert runtime.status(name) == "paused"
    assert runtime("resume", name).code == 0
    assert runtime("delete", "--force", name).code == 0
    assert systemd.units == {}
    assert cgroups_named(unit) == []


RESOURCES: dict[str, Config] = {
    "none": {},
    "memory": {"memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB}},
    "no memory limit": {"memory": {"limit": -1}},
    "cpu": {"cpu": {"quota": 33_000, "period": 66_000, "cpus": "0", "mems": "0"}},
    "a quota of odd percents": {"cpu": {"quota": 12_345}},
    "no quota": {"cpu": {"quota": -1, "period": 50_000}},
    "pids": {"pids": {"limit": -1}},
    "devices": {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
            {"allow": True, "type": "b", "major": 7, "access": "rw"},
            {"allow": True, "type": "c", "major": 250, "minor": 77, "access": "rw"},
        ]
    },
    "all devices": {"devices": [{"allow": True, "access": "rwm"}]},
}
if not UNIFIED:  # ours has another curve on v2
    RESOURCES["shares"] = {"cpu": {"shares": 512}, "blockIO": {"weight": 500}}
else:
    RESOURCES["unified"] = {
        "unified": {"memory.high": str(MIB * 64), "cpu.max": "20000 50000", "pids.max": "9"}
    }


def plain(properties: dict[str, Variant]) -> dict[str, Any]:
    """Properties for comparison: without what differs from run to run, rules in some order of their own."""
    found = {key: value for key, value in properties.items() if key != "PIDs"}
    if "DeviceAllow" in found:
        found["DeviceAllow"] = Variant("a(ss)", sorted(found["DeviceAllow"].value))
    return found


@pytest.mark.parametrize("what", RESOURCES)
def test_systemd_is_told_what_runc_tells_it(
    place: Path, address: str, systemd: buses.Systemd, bundle: Bundle, name: str, what: str
) -> None:
    need("root", "busybox", "runc")
    bundle.config["annotations"] = {
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.TimeoutStopSec": "uint32 123",
        "org.systemd.property.Documentation": "['man:runc(8)', 'man:x(1)']",
    }
    told = []
    for program in (VENV_BIN / "cutaway-runc", peer("runc")):
        runtime = wrapped(place, program, address)
        try:
            unit = start(runtime, bundle, name, RESOURCES[what])
            assert len(systemd.units[unit]["PIDs"].value) == 1
            told.append((plain(systemd.units[unit]), plain(systemd.set.pop(unit))))
        finally:
            runtime.clean()
    assert told[0] == told[1]
    assert told[0][0]["TimeoutStopUSec"] == Variant("t", 123_000_000)


def test_a_failed_create_stops_its_unit(
    ours: Runtime, systemd: buses.Systemd, bundle: Bundle, name: str
) -> None:
    bundle.linux["cgroupsPath"] = f"cwtest.slice:cw:{name}"
    bundle.process["args"] = ["no-such-program"]
    result = ours("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "no-such-program" in result.error
    assert (systemd.units, cgroups_named(f"cw-{name}.scope")) == ({}, [])
    assert systemd.calls.count("StopUnit") == 1


def test_a_job_that_fails_is_told(ours: Runtime, systemd: buses.Systemd, bundle: Bundle, name: str) -> None:
    systemd.result = "failed"
    bundle.linux["cgroupsPath"] = f"cwtest.slice:cw:{name}"
    result = ours("run", "--bundle", bundle, name)
    assert result.error == (
        "runc run failed: unable to start container process: unable to apply cgroup configuration: "
        f"error creating systemd unit `cw-{name}.scope`: got `failed`"
    )
    assert "ResetFailedUnit" in systemd.calls
    systemd.units.clear()


def test_a_unit_of_others_is_not_touched(
    ours: Runtime, systemd: buses.Systemd, bundle: Bundle, name: str
) -> None:
    unit = start(ours, bundle, name)
    bundle.linux["cgroupsPath"] = f"cwtest.slice:cw:{name}"
    result = ours("run", "--bundle", bundle, f"{name}-second")
    assert f"unable to start unit {unit}: UnitExists" in result.error
    assert ours.status(name) == "running"
    assert list(systemd.units) == [unit]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/docker/abc",
            'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            'got "/docker/abc" instead',
        ),
        ("a/b.slice:x:y", "invalid slice name: a/b.slice"),
    ],
)
def test_bad_paths(runtime: Runtime, bundle: Bundle, name: str, path: str, message: str) -> None:
    bundle.linux["cgroupsPath"] = path
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.error) == (1, f"runc run failed: {message}")


def test_without_systemd(place: Path, bundle: Bundle, name: str) -> None:
    need("root", "busybox", "runc")
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")
    bundle.linux["cgroupsPath"] = f"cwtest.slice:cw:{name}"
    errors = set()
    for program in (VENV_BIN / "cutaway-runc", peer("runc")):
        root = place / program.name
        root.mkdir()
        result = Runtime(program, root)("run", "--bundle", bundle, name, options=["--systemd-cgroup"])
        assert result.code == 1
        errors.add(result.error)
    assert errors == {"runc run failed: systemd not running on this host, cannot use systemd cgroups manager"}


def test_without_a_bus(place: Path, bundle: Bundle, name: str) -> None:
    need("root", "busybox")
    runtime = wrapped(place, VENV_BIN / "cutaway-runc", f"unix:path={place}/nobody")
    bundle.linux["cgroupsPath"] = f"cwtest.slice:cw:{name}"
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert "failed to connect to dbus" in result.error
    assert cgroups_named(f"cw-{name}.scope") == []


def test_another_client_understands_us_and_we_it(systemd: buses.Systemd, address: str) -> None:
    """dbus-send marshals by libdbus, and the daemon closes the connection of who sends nonsense."""
    need("dbus-send")
    command: list[str | Path] = [
        peer("dbus-send"), f"--bus={address}", "--print-reply", "--dest=org.freedesktop.systemd1",
        "/org/freedesktop/systemd1", "org.freedesktop.DBus.Properties.Get",
        "string:org.freedesktop.systemd1.Manager", "string:Version",
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert 'variant       string "252.38-1"' in said
    with Connection(address) as connection:
        connection.hello()
        names = connection.call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListNames"
        )[0]
    assert "org.freedesktop.systemd1" in names
