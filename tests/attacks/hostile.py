"""Hostile configurations: a valid one with every field there is, by introspection, and what to put there."""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st

from cutaway.oci import runtime_spec
from cutaway.oci.document import Document

Place = tuple[str | int, ...]

# What a field of this type has where nothing below says otherwise.
_SCALARS: dict[Any, Any] = {str: "x", int: 1, bool: True, float: 1.0, object: 1}

# By class and attribute, where any value of the type would not do.
PLAUSIBLE: dict[tuple[str, str], Any] = {
    ("Spec", "oci_version"): "1.2.0",
    ("Spec", "mounts"): [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {
            "destination": "/data", "type": "none", "source": "/usr", "options": ["bind", "ro"],
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        },
    ],
    ("Root", "path"): "/tmp",
    ("Process", "terminal"): False,
    ("Process", "args"): ["true"],
    ("Process", "env"): ["A=1", "B="],
    ("Process", "cwd"): "/",
    ("Process", "apparmor_profile"): "",
    ("Process", "selinux_label"): "",
    **{("Capabilities", name): ["CAP_KILL"] for name in runtime_spec.Capabilities._fields},
    ("Rlimit", "type"): "RLIMIT_NOFILE",
    ("Scheduler", "policy"): "SCHED_OTHER",
    ("Scheduler", "flags"): ["SCHED_FLAG_RESET_ON_FORK"],
    **{("Scheduler", name): 0 for name in ("priority", "runtime", "deadline", "period")},
    ("IoPriority", "class_"): "IOPRIO_CLASS_BE",
    ("CpuAffinity", "initial"): "0",
    ("CpuAffinity", "final"): "0-1",
    ("IdMapping", "container_id"): 0,
    ("Hook", "path"): "/bin/true",
    ("Linux", "sysctl"): {"net.ipv4.ip_forward": "1"},
    ("Linux", "namespaces"): [
        *({"type": kind} for kind in ("pid", "network", "uts", "mount", "user", "time", "cgroup")),
        {"type": "ipc", "path": "/proc/self/ns/ipc"},
    ],
    ("Linux", "rootfs_propagation"): "slave",
    ("Linux", "masked_paths"): ["/proc/keys"],
    ("Linux", "readonly_paths"): ["/proc/sys"],
    ("Linux", "mount_label"): "",
    ("Linux", "time_offsets"): {"boottime": {"secs": 1, "nanosecs": 1}},
    ("Device", "path"): "/dev/x",
    ("Device", "type"): "c",
    ("Device", "file_mode"): 0o666,
    ("DeviceRule", "type"): "c",
    ("DeviceRule", "access"): "rwm",
    ("Cpu", "cpus"): "0",
    ("Cpu", "mems"): "0",
    ("Memory", "swap"): 2,
    ("HugepageLimit", "page_size"): "2MB",
    ("Personality", "domain"): "LINUX",
    ("Personality", "flags"): [],
    ("Seccomp", "default_action"): "SCMP_ACT_ALLOW",
    ("Seccomp", "architectures"): ["SCMP_ARCH_X86_64"],
    ("Seccomp", "flags"): ["SECCOMP_FILTER_FLAG_LOG"],
    ("Syscall", "names"): ["ptrace", "no_such_call"],
    ("Syscall", "action"): "SCMP_ACT_ERRNO",
    ("SyscallArg", "op"): "SCMP_CMP_MASKED_EQ",
}  # fmt: skip

# What not every machine takes: there for a hostile value only.
ELSEWHERE: tuple[Place, ...] = (("linux", "intelRdt"), ("linux", "resources", "unified"))


def example(cls: type[Document]) -> dict[str, Any]:
    """A document with every field of its class."""
    found = {}
    for name, (key, annotation, _) in cls._fields.items():
        special = (cls.__name__, name)
        found[key] = copy.deepcopy(PLAUSIBLE[special]) if special in PLAUSIBLE else _example(annotation)
    return found


def _example(annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType):
        annotation = next(each for each in annotation.__args__ if each is not type(None))
    if isinstance(annotation, types.GenericAlias):
        inner = _example(annotation.__args__[-1])
        return [inner] if annotation.__origin__ is list else {"x": inner}
    return copy.deepcopy(_SCALARS[annotation]) if annotation in _SCALARS else example(annotation)


FULL = example(runtime_spec.Spec)


def valid(source: dict[str, Any] = FULL) -> dict[str, Any]:
    """A copy that this machine takes."""
    config: dict[str, Any] = json.loads(json.dumps(source))
    for *parents, last in ELSEWHERE:
        inner = config
        for key in parents:
            inner = inner.get(str(key), {})
        inner.pop(str(last), None)
    return config


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every value below one."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


PLACES = list(places(FULL))


def fields(cls: type[Document], value: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, str, str]]:
    """Every field: its place, its class and its attribute there."""
    for attribute, (key, annotation, _) in cls._fields.items():
        yield (*place, key), cls.__name__, attribute
        if (inner := _documents(annotation)) is not None and key in value:
            yield from _inner_fields(inner, value[key], (*place, key))


def _inner_fields(cls: type[Document], value: Any, place: Place) -> Iterator[tuple[Place, str, str]]:
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from fields(cls, each, (*place, index))
    elif set(value) == {"x"} or cls is runtime_spec.TimeOffset:
        for key, each in value.items():
            yield from fields(cls, each, (*place, key))
    else:
        yield from fields(cls, value, place)


def _documents(annotation: Any) -> type[Document] | None:
    """The class of documents that an annotation is about."""
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation
    found = (_documents(each) for each in getattr(annotation, "__args__", ()))
    return next((each for each in found if each is not None), None)


def name(place: Place) -> str:
    """As messages name it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def at(config: Any, place: Place) -> Any:
    for key in place:
        config = config[key]
    return config


def put(config: Any, place: Place, value: Any) -> None:
    """Set a value, and what is around it where that is missing, unless an earlier one is in the way."""
    inner: Any = config
    full: Any = FULL
    for key in place[:-1]:
        full = full[key]
        if isinstance(inner, dict):
            inner = inner.setdefault(str(key), copy.deepcopy(full))
        elif isinstance(inner, list) and isinstance(key, int) and key < len(inner):
            inner = inner[key]
        else:
            return
    last: Any = place[-1]
    if isinstance(inner, dict) or (isinstance(inner, list) and last in range(len(inner))):
        inner[last] = copy.deepcopy(value)  # which may be a part of FULL


WRONG_TYPES: dict[type, list[Any]] = {
    str: [1, 1.5, True, [], {}, ["x"]],
    int: ["1", 1.5, True, [], {}, 1 << 64, -(1 << 63) - 1, 1e300],
    bool: ["true", 1, 0, [], {}],
    list: ["x", 1, True, {}, {"0": "x"}],
    dict: ["x", 1, True, [], [{}]],
}

TEXTS = st.sampled_from(
    ["", "\0", "x\0y", "\ud800", "..", "../..", "/", "/..", "/proc/self/fd/3", "x\ny", " ", "-1",
     "a" * 70_000, "0-" + "9" * 30, "²MB", "9MB", "%s%n", "/sys/fs/cgroup", "rbind", "idmap",
     "CAP_KILL", "*", "a,b", "x=y"]
) | st.text(max_size=12)  # fmt: skip
NUMBERS = st.sampled_from(
    [0, -1, -(1 << 31), -(1 << 63), 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
     (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
)  # fmt: skip


def _nonsense(place: Place) -> st.SearchStrategy[Any]:
    """Values of the right type for a place, and of none."""
    there = at(FULL, place)
    if isinstance(there, bool):
        return st.booleans()
    if isinstance(there, int):
        return NUMBERS
    if isinstance(there, str):
        return TEXTS
    if isinstance(there, list):
        return st.sampled_from([[], there * 2, there * 300, [None]]) | st.lists(TEXTS, max_size=3)
    return st.sampled_from([{}, {"": 1}, {"x": {}}]) | st.dictionaries(TEXTS, TEXTS | NUMBERS, max_size=2)


CHANGES = st.lists(
    st.sampled_from(PLACES).flatmap(lambda place: st.tuples(st.just(place), _nonsense(place) | st.none())),
    min_size=1,
    max_size=3,
)
