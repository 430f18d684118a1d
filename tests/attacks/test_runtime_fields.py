"""Every text of a configuration: which values are wrong, and that each is refused by its JSON path.

Numbers and types are taken from the specification's classes (test_runtime_config.py); what a text may be
stands in no class. So each that there is has its place here: among those with wrong values, or among those
that take any. One that is added has none, and fails.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from attacks import hostile
from attacks.test_runtime_config import plan
from cutaway.errors import InvalidArgument
from cutaway.runc import draft
from runc.bundles import Bundle, Runtime, cgroups_named
from support.leftovers import temporary_base

# Place, with * for any index -> values that are none. What is missing altogether is refused by the types.
WRONG: dict[str, list[str]] = {
    "ociVersion": ["", "1", "1.2", "one.two.three", "1.2.x", "1.2.0/3"],
    "process.cwd": ["", "relative", "./x"],
    "process.rlimits[*].type": ["", "NOFILE", "RLIMIT_NONSENSE", "rlimit_nofile"],
    "process.scheduler.policy": ["", "SCHED_NONSENSE"],
    "process.scheduler.flags[*]": ["", "SCHED_FLAG_NONSENSE"],
    "process.ioPriority.class": ["", "IOPRIO_CLASS_NONSENSE"],
    "process.execCPUAffinity.initial": ["x", "1-0", "-1", "99999"],
    "process.execCPUAffinity.final": ["x", "1-0", "-1", "99999"],
    "root.path": ["/no/such/directory", "/", "/proc/self/root"],
    "mounts[*].destination": [""],
    "hooks.*[*].path": [""],
    "hooks.*[*].args[0]": [""],
    "hooks.*[*].env[*]": ["", "=x"],
    "linux.namespaces[*].type": ["", "nonsense", "net", "PID"],
    "linux.namespaces[*].path": ["relative", "../x"],
    "linux.devices[*].path": ["", "dev/x"],
    "linux.devices[*].type": ["", "x", "cc", "a"],
    "linux.resources.devices[*].type": ["x", "p"],
    "linux.resources.devices[*].access": ["", "x", "rwx"],
    "linux.resources.hugepageLimits[*].pageSize": ["", "2", "MB", "2mb", "0x2MB", "../2MB"],
    "linux.netDevices.*.name": [".", "..", "a/b", "a b", "a:b", "sixteen-letters."],
    "linux.rootfsPropagation": ["nonsense", "ro", "Shared"],
    "linux.seccomp.defaultAction": ["", "SCMP_ACT_NONSENSE", "SCMP_ACT_NOTIFY"],
    "linux.seccomp.architectures[*]": ["", "SCMP_ARCH_NONSENSE", "x86_64"],
    "linux.seccomp.flags[*]": ["", "SECCOMP_FILTER_FLAG_NONSENSE"],
    "linux.seccomp.syscalls[*].action": ["", "SCMP_ACT_NONSENSE"],
    "linux.seccomp.syscalls[*].args[*].op": ["", "SCMP_CMP_NONSENSE", "=="],
    "linux.personality.domain": ["", "BSD"],
    "linux.intelRdt.*": ["anything: there is no such hardware here"],
    "linux.intelRdt.schemata[*]": ["anything: there is no such hardware here"],
}  # fmt: skip

# Any text will do: what it is for decides, in the kernel or in the container; unknown capabilities,
# options and system calls are passed over with a warning, as runc passes them over.
FREE = [
    "process.user.username", "process.args[*]", "process.commandLine", "process.env[*]",
    "process.capabilities.*[*]", "process.apparmorProfile", "process.selinuxLabel", "hostname", "domainname",
    "mounts[*].type", "mounts[*].source", "mounts[*].options[*]", "hooks.*[*].args[*]",
    "linux.sysctl.*", "linux.resources.cpu.cpus", "linux.resources.cpu.mems",
    "linux.resources.network.priorities[*].name", "linux.resources.unified.*", "linux.cgroupsPath",
    "linux.seccomp.listenerPath", "linux.seccomp.listenerMetadata", "linux.seccomp.syscalls[*].names[*]",
    "linux.maskedPaths[*]", "linux.readonlyPaths[*]", "linux.mountLabel", "annotations.*",
]  # fmt: skip

TEXTS = [place for place in hostile.PLACES if isinstance(hostile.at(hostile.FULL, place), str)]


def fits(pattern: str, name: str) -> bool:
    inner = re.escape(pattern).replace(r"\[\*\]", r"\[\d+\]").replace(r"\.\*", r"\..+?")
    return re.fullmatch(inner, name) is not None


def wrong(name: str) -> list[str]:
    return [value for pattern, values in WRONG.items() if fits(pattern, name) for value in values]


def cases() -> Iterator[tuple[hostile.Place, str]]:
    for place in TEXTS:
        for value in wrong(hostile.name(place)):
            yield place, value


@pytest.fixture(scope="module")
def here() -> Iterator[Path]:
    with temporary_base() as base, chdir(base), pytest.MonkeyPatch.context() as patch:
        patch.setattr(draft, "SECCOMP_CACHE", os.fspath(base / "seccomp"))
        yield base


def test_every_text_has_its_place() -> None:
    names = [hostile.name(place) for place in TEXTS]
    assert [name for name in names if not wrong(name) and not any(fits(each, name) for each in FREE)] == []
    assert [each for each in [*WRONG, *FREE] if not any(fits(each, name) for name in names)] == []


@pytest.mark.root
@pytest.mark.parametrize(("place", "value"), list(cases()), ids=str)
def test_a_wrong_text_is_named(here: Path, place: hostile.Place, value: str) -> None:
    wanted = hostile.valid()
    hostile.put(wanted, place, value)
    with pytest.raises(InvalidArgument) as caught:
        plan(here, wanted)
    said, name = str(caught.value), hostile.name(place)
    assert re.search(rf"(^|\(){re.escape(name)}", said) or name.startswith("linux.intelRdt"), said
    assert re.search(r"expected|must|cannot|known|a variable without", said), said


@pytest.mark.root
def test_nothing_is_left_of_any(ours: Runtime, bundle: Bundle, name: str) -> None:
    """One of each, put into a configuration that is created for real."""
    seen = set()
    for place, value in cases():
        pattern = re.sub(r"\[\d+\]", "[*]", hostile.name(place))
        wanted = json.loads(json.dumps(bundle.config))
        hostile.put(wanted, place, value)
        if pattern in seen or wanted == bundle.config:  # it has less in its lists
            continue
        seen.add(pattern)
        (bundle.path / "config.json").write_text(json.dumps(wanted))
        result = ours.detached("create", "--bundle", os.fspath(bundle.path), name)
        assert result.code == 1, (place, value)
        assert result.err.count("level=error") == 1
        assert not os.listdir(ours.root)
    assert not cgroups_named(name)
    assert os.fspath(bundle.path) not in Path("/proc/self/mountinfo").read_text()
