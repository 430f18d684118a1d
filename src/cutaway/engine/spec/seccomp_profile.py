"""Seccomp profiles in Docker's form, resolved to the OCI document's for one machine and container.

Docker's form adds conditions to rules: a capability that the container has or lacks, an architecture, a
least kernel; and derives the architectures from the machine's. The default profile is data beside this
module, in a terser form of our own.
"""

import json
from collections.abc import Collection
from functools import cache, lru_cache
from importlib import resources

from cutaway.engine.spec.inputs import Host
from cutaway.errors import InvalidArgument
from cutaway.oci.document import Document, decode, field, loads
from cutaway.oci.runtime_spec import Seccomp, Syscall, SyscallArg


class Condition(Document):
    """`includes` and `excludes` of a rule."""

    caps: list[str] = []
    arches: list[str] = []  # Go's names: amd64, arm64
    min_kernel: str | None = None


class Rule(Document):
    names: list[str] = []
    name: str | None = None  # the old form
    action: str
    errno_ret: int | None = None
    args: list[SyscallArg] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchMap(Document):
    architecture: str
    sub_architectures: list[str] = []


class Profile(Document):
    """The file that `--security-opt seccomp=FILE` names."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] = []
    arch_map: list[ArchMap] = []
    flags: list[str] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: list[Rule] = []


# uname's machine -> Go's name, seccomp's name
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
}


def resolve(text: str | None, host: Host, capabilities: list[str]) -> Seccomp | None:
    """The rules that hold for a container with these capabilities; of the default profile for None.

    None when the profile is empty: that is Docker's way to say "no filter". Not to be changed: containers
    with the default profile share it.
    Raises `InvalidArgument` with the JSON path for text that is not a profile.
    """
    if text is None:
        return _resolve_default(host, tuple(capabilities))
    return _resolve(loads(Profile, text, "seccomp profile"), host, capabilities)


@lru_cache(maxsize=32)
def _resolve_default(host: Host, capabilities: tuple[str, ...]) -> Seccomp | None:
    return _resolve(_default(), host, capabilities)


def _resolve(profile: Profile, host: Host, capabilities: Collection[str]) -> Seccomp | None:
    if not profile.default_action and not profile.syscalls:
        return None
    if profile.architectures and profile.arch_map:
        raise InvalidArgument(
            "'architectures' and 'archMap' were specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    held = [rule for rule in profile.syscalls if _holds(rule, host, capabilities)]
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=_architectures(profile, host) or None,
        flags=profile.flags,
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=[_syscall(rule) for rule in held],
    )


def _architectures(profile: Profile, host: Host) -> list[str]:
    ours = _MACHINES.get(host.architecture, ("", ""))[1]
    for entry in profile.arch_map:
        if entry.architecture == ours:
            return [entry.architecture, *entry.sub_architectures]
    return list(profile.architectures)


def _holds(rule: Rule, host: Host, capabilities: Collection[str]) -> bool:
    """Every include must be met, and no exclude."""
    arch = _MACHINES.get(host.architecture, (host.architecture, ""))[0]
    unless, when = rule.excludes, rule.includes
    if unless and (
        arch in unless.arches
        or any(name in capabilities for name in unless.caps)
        or (unless.min_kernel and host.kernel >= _kernel(unless.min_kernel))
    ):
        return False
    return not when or bool(
        (not when.arches or arch in when.arches)
        and all(name in capabilities for name in when.caps)
        and (not when.min_kernel or host.kernel >= _kernel(when.min_kernel))
    )


def _kernel(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise InvalidArgument(f'seccomp profile: invalid kernel version "{text}": expected "MAJOR.MINOR"')
    return int(major), int(minor)


def _syscall(rule: Rule) -> Syscall:
    if rule.name and rule.names:
        raise InvalidArgument(
            "'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'"
        )
    names = [rule.name] if rule.name else list(rule.names)
    return Syscall(names=names, action=rule.action, errno_ret=rule.errno_ret, args=rule.args or None)


class _DefaultRule(Document):
    """A rule of the data file; see its "about"."""

    names: str
    errno: int | None = None
    args: list[list[object]] = []
    cap: str | None = None
    without_cap: str | None = field(default=None, name="without_cap")
    kernel: list[int] | None = None
    arch: str | None = None


class _DefaultProfile(Document):
    architectures: dict[str, list[str]]
    allow: list[str]
    rules: list[_DefaultRule]


@cache
def _default() -> Profile:
    """The data file as if a user had given it in Docker's form."""
    text = resources.files(__package__).joinpath("seccomp_default.json").read_text("utf-8")
    data = decode(_DefaultProfile, json.loads(text), "seccomp_default.json:")
    everything = [name for line in data.allow for name in line.split()]
    maps = [
        ArchMap(architecture=first, sub_architectures=rest) for first, *rest in data.architectures.values()
    ]
    return Profile(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=1,
        arch_map=maps,
        syscalls=[Rule(names=everything, action="SCMP_ACT_ALLOW"), *map(_expanded, data.rules)],
    )


def _expanded(rule: _DefaultRule) -> Rule:
    includes = Condition(
        caps=[rule.cap] if rule.cap else [],
        arches=[_MACHINES[rule.arch][0]] if rule.arch else [],
        min_kernel=".".join(map(str, rule.kernel)) if rule.kernel else None,
    )
    return Rule(
        names=rule.names.split(),
        action="SCMP_ACT_ALLOW" if rule.errno is None else "SCMP_ACT_ERRNO",
        errno_ret=rule.errno,
        args=[_argument(*arg) for arg in rule.args] or None,
        includes=includes,
        excludes=Condition(caps=[rule.without_cap]) if rule.without_cap else None,
    )


def _argument(index: object, operator: object, value: object, value_two: object = None) -> SyscallArg:
    raw = {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": value_two}
    return decode(SyscallArg, raw, "seccomp_default.json:args")
