"""Device rules as a program in the kernel: what a process in the cgroup can open and make."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.linux.cgroups import device_program
from cutaway.linux.cgroups.devices import ANY, Table
from cutaway.linux.cgroups.v2 import ManagerV2
from cutaway.oci.runtime_spec import DeviceRule, Resources

CLOSED = DeviceRule(allow=False, access="rwm")
OPEN = DeviceRule(allow=True, access="rwm")
KMSG = DeviceRule(allow=True, type="c", major=1, minor=11, access="r")


def allowed(cgroup: ManagerV2, attempt: Callable[[], object]) -> bool:
    """Whether a process in the cgroup can do something; only a refusal for its rights is a no."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            cgroup.add(0)
            attempt()
            code = 0
        except PermissionError:
            code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


def opens(cgroup: ManagerV2, path: str, mode: int) -> bool:
    return allowed(cgroup, lambda: os.open(path, mode | os.O_NONBLOCK))


def makes(cgroup: ManagerV2, path: Path, kind: int, major: int, minor: int) -> bool:
    made = allowed(cgroup, lambda: os.mknod(path, kind | 0o600, os.makedev(major, minor)))
    path.unlink(missing_ok=True)
    return made


def attached(cgroup: ManagerV2) -> int:
    """How many programs the cgroup has."""
    directory = os.open(cgroup.path, os.O_RDONLY)
    found = device_program._attached(directory)
    for fd in [directory, *found]:
        os.close(fd)
    return len(found)


def test_rules_are_held_and_replaced(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(devices=[CLOSED]))
    assert opens(cgroup, "/dev/null", os.O_RDWR)
    assert not opens(cgroup, "/dev/kmsg", os.O_RDONLY)
    cgroup.apply(Resources(devices=[CLOSED, KMSG]))
    assert opens(cgroup, "/dev/kmsg", os.O_RDONLY)
    assert not opens(cgroup, "/dev/kmsg", os.O_WRONLY)
    assert not opens(cgroup, "/dev/kmsg", os.O_RDWR)
    assert attached(cgroup) == 1
    cgroup.apply(Resources(devices=[OPEN]))
    assert opens(cgroup, "/dev/kmsg", os.O_RDWR)
    assert attached(cgroup) == 0


def test_without_any_rules_only_default_devices_are_open(cgroup: ManagerV2) -> None:
    cgroup.apply(None)
    assert opens(cgroup, "/dev/zero", os.O_RDWR)
    assert not opens(cgroup, "/dev/kmsg", os.O_RDONLY)


def test_an_update_leaves_the_rules_alone(cgroup: ManagerV2) -> None:
    cgroup.apply(None)
    cgroup.apply(Resources(devices=[OPEN]), devices=False)
    assert not opens(cgroup, "/dev/kmsg", os.O_RDONLY)


def test_any_node_may_be_made_but_not_opened(cgroup: ManagerV2, place: Path) -> None:
    cgroup.apply(None)
    assert makes(cgroup, place / "node", stat.S_IFCHR, 1, 11)
    assert makes(cgroup, place / "node", stat.S_IFBLK, 7, 0)
    os.mknod(place / "kmsg", stat.S_IFCHR | 0o600, os.makedev(1, 11))
    assert not opens(cgroup, str(place / "kmsg"), os.O_RDONLY)


def test_making_nodes_is_denied_by_a_table_that_says_so(cgroup: ManagerV2, place: Path) -> None:
    table = Table()
    table.put(("c", 1, 3), "rwm", True)
    table.put(("c", 1, 5), "rw", True)
    table.put(("b", 7, ANY), "m", True)
    device_program.install(cgroup.path, device_program.assemble(table))
    assert makes(cgroup, place / "node", stat.S_IFCHR, 1, 3)
    assert not makes(cgroup, place / "node", stat.S_IFCHR, 1, 5)
    assert not makes(cgroup, place / "node", stat.S_IFBLK, 1, 3)
    assert makes(cgroup, place / "node", stat.S_IFBLK, 7, 5)
    assert not makes(cgroup, place / "node", stat.S_IFBLK, 8, 5)
    assert opens(cgroup, "/dev/zero", os.O_RDWR)


def test_exceptions_to_an_open_table(cgroup: ManagerV2, place: Path) -> None:
    deny = DeviceRule(allow=False, type="c", major=1, minor=11, access="w")
    cgroup.apply(Resources(devices=[OPEN, deny]))
    assert opens(cgroup, "/dev/kmsg", os.O_RDONLY)
    assert not opens(cgroup, "/dev/kmsg", os.O_WRONLY)
    assert not opens(cgroup, "/dev/kmsg", os.O_RDWR)
    assert makes(cgroup, place / "node", stat.S_IFCHR, 1, 11)


@pytest.mark.parametrize("count", [1, 500])
def test_many_rules(cgroup: ManagerV2, count: int) -> None:
    rules = [DeviceRule(allow=True, type="c", major=240, minor=minor, access="rwm") for minor in range(count)]
    cgroup.apply(Resources(devices=[CLOSED, *rules, KMSG]))
    assert opens(cgroup, "/dev/kmsg", os.O_RDONLY)
    assert not opens(cgroup, "/dev/kmsg", os.O_WRONLY)


def test_a_cgroup_below_cannot_open_what_one_above_denies(cgroup: ManagerV2) -> None:
    cgroup.apply(Resources(devices=[CLOSED]))
    below = ManagerV2(f"{cgroup.path}/below")
    below.create()
    below.apply(Resources(devices=[OPEN]))
    assert not opens(below, "/dev/kmsg", os.O_RDONLY)
    below.apply(Resources(devices=[CLOSED, KMSG]))
    assert not opens(below, "/dev/kmsg", os.O_RDONLY)
