"""The systemd cgroup driver with systemd itself, which says by `systemctl show` what it has made.

systemd is process 1 of a pid namespace, in mount and cgroup namespaces of its own, without a bus: the
runtime, entering these, talks to systemd's private socket, as it does on a machine where no bus runs yet.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.linux import cgroups, namespaces
from cutaway.linux.cgroups.v2 import ManagerV2
from runc.bundles import SECONDS, Bundle, Runtime
from support.peers import PEERS, VENV_BIN, lack
from support.process import wait_until

MIB = 1 << 20
VM = PEERS / "vm"
SYSTEMD = VM / "root/lib/systemd/systemd"
SYSTEMCTL = VM / "bin/systemctl"

UNIT = "[Unit]\\nDescription=nothing but what the test starts\\nDefaultDependencies=no\\n"

BOOT = f"""\
mount -t proc proc /proc
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/systemd/system
printf '{UNIT}' >/run/systemd/system/cw.target
exec env -i container=cutaway LD_LIBRARY_PATH={VM}/lib {SYSTEMD} --system --unit=cw.target
"""

ENTER = """\
#!/bin/sh
exec nsenter -t {pid} -m -p {command} "$@"
"""


@pytest.fixture
def systemd(parent: ManagerV2, place: Path) -> Iterator[int]:
    """A running systemd; its pid."""
    if not SYSTEMD.exists():
        lack("needs systemd (tools/peers.py --group vm)")

    def enter() -> None:
        parent.add(0)
        namespaces.unshare(namespaces.flag("cgroup"))

    log = place / "systemd.log"
    with log.open("w") as output:
        outer = subprocess.Popen(
            ["unshare", "-m", "-p", "-f", "sh", "-c", BOOT],
            preexec_fn=enter,  # noqa: PLW1509  # there are no threads here
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        wait_until(lambda: bool(children.read_text().split()), "it has a process 1")
        pid = int(children.read_text().split()[0])
        # What systemd cannot see it cannot move, and a cgroup with processes has no controllers below.
        cgroups.from_pid(os.getpid()).add(outer.pid)
        private = Path(f"/proc/{pid}/root/run/systemd/private")
        wait_until(lambda: private.exists() or outer.poll() is not None, "systemd listens")
        assert outer.poll() is None, log.read_text()
        yield pid
    finally:
        outer.kill()
        parent.kill_all(9)
        outer.wait(SECONDS)


@pytest.fixture
def runtime(systemd: int, place: Path) -> Iterator[Runtime]:
    """Ours, in the namespaces of that systemd."""
    program = place / "cutaway-runc"
    command = f"{shlex.quote(str(VENV_BIN / 'cutaway-runc'))} --systemd-cgroup"
    program.write_text(ENTER.format(pid=systemd, command=command))
    program.chmod(0o755)
    root = place / "root"
    root.mkdir()
    runtime = Runtime(program, root)
    yield runtime
    runtime.clean()


def shown(systemd: int, unit: str) -> dict[str, str]:
    """What `systemctl show` says of a unit."""
    said = subprocess.run(
        ["nsenter", "-t", str(systemd), "-m", "-p", SYSTEMCTL, "show", unit],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
        env={**os.environ, "LD_LIBRARY_PATH": str(VM / "lib")},
    ).stdout
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def test_a_scope_with_its_limits(runtime: Runtime, systemd: int, bundle: Bundle, name: str) -> None:
    bundle.linux["cgroupsPath"] = f"cw-test.slice:cw:{name}"
    bundle.config["annotations"] = {"org.systemd.property.TimeoutStopSec": "uint32 7"}
    bundle.linux["resources"] = {
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 1024, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ],
    }
    unit = f"cw-{name}.scope"
    result = runtime.detached("run", "--detach", "--bundle", bundle.shell("sleep 1000"), name)
    assert result.code == 0, result.err
    properties = shown(systemd, unit)
    expected = {
        "ActiveState": "active",
        "Slice": "cw-test.slice",
        "ControlGroup": f"/cw.slice/cw-test.slice/{unit}",
        "Delegate": "yes",
        "MemoryMax": str(64 * MIB),
        "MemorySwapMax": str(32 * MIB),
        "MemoryLow": str(32 * MIB),
        "CPUWeight": "100",
        "CPUQuotaPerSecUSec": "400ms",
        "CPUQuotaPeriodUSec": "50ms",
        "AllowedCPUs": "0",
        "AllowedMemoryNodes": "0",
        "TasksMax": "33",
        "DevicePolicy": "strict",
        "TimeoutStopUSec": "7s",
    }
    assert {key: properties.get(key) for key in expected} == expected
    assert "/dev/char/1:11 r" in properties["DeviceAllow"]
    cgroup = Path(f"/proc/{systemd}/root/sys/fs/cgroup/cw.slice/cw-test.slice/{unit}")
    assert (cgroup / "memory.max").read_text() == f"{64 * MIB}\n"
    assert (cgroup / "cpu.max").read_text() == "20000 50000\n"

    assert runtime("exec", name, "true").code == 0
    assert runtime("update", "--pids-limit", "44", "--cpu-quota", "30000", name).code == 0
    properties = shown(systemd, unit)
    assert (properties["TasksMax"], properties["CPUQuotaPerSecUSec"]) == ("44", "600ms")
    assert (cgroup / "cpu.max").read_text() == "30000 50000\n"

    assert runtime("delete", "--force", name).code == 0
    assert shown(systemd, unit)["ActiveState"] == "inactive"
    assert not cgroup.exists()
