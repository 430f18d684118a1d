"""A container's settings, with everything looked up, for the spec builder."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cutaway.engine import hostinfo
from cutaway.engine.containers.config import HostConfig, MountRequest, ThrottleDevice, words
from cutaway.engine.containers.exec_request import ExecRequest
from cutaway.engine.containers.model import Container
from cutaway.engine.containers.namespaces import namespaces
from cutaway.engine.containers.parts import Parts
from cutaway.engine.rootfs_view import is_untouched, open_rootfs
from cutaway.engine.spec import build as spec_build
from cutaway.engine.spec import inputs as spec
from cutaway.engine.userdb import Identity, resolve
from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.oci import runtime_spec

if TYPE_CHECKING:
    from cutaway.engine.network import Endpoint
    from cutaway.pb.mount_pb2 import Mount

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INIT_NAMES: Final = ("docker-init", "tini")

_IDENTITIES: Final = 256
_identities: dict[tuple[str, str, tuple[str, ...]], Identity] = {}
"""Who a user is in an image as it was built; an image's id is a digest of all that is in it."""


async def container_spec(
    parts: Parts, container: Container, endpoint: Endpoint, rootfs: Sequence[Mount]
) -> runtime_spec.Spec:
    """The OCI document for a start of the container. Raises `InvalidArgument` for what cannot be."""
    identity = await _identity(container, rootfs)
    inputs = _inputs(parts, container, endpoint, identity)
    host = hostinfo.host()
    if container.host.privileged:
        host = dataclasses.replace(host, devices=tuple(hostinfo.devices_below()))
    return spec_build.build(inputs, host)


async def exec_process(parts: Parts, container: Container, request: ExecRequest) -> runtime_spec.Process:
    """The process document for an exec: what the container's own has, but for what the request says."""
    process = (await parts.runtime.container_spec(container.id)).process
    if process is None:
        raise FailedPrecondition(f"container {container.id} has a spec without a process")
    if request.user:
        rootfs = container.rootfs or await parts.runtime.snapshot_mounts(container.id)
        found = await _lookup(rootfs, request.user, container.host.group_add or ())
        gids = [found.gid, *(gid for gid in found.additional_gids if gid != found.gid)]
        process.user = runtime_spec.User(uid=found.uid, gid=found.gid, additional_gids=gids)
    if request.privileged:
        everything = sorted(hostinfo.bounding_set())
        process.capabilities = runtime_spec.Capabilities(
            bounding=everything, effective=list(everything), permitted=list(everything)
        )
    process.args = request.command
    process.terminal = True if request.tty else None
    process.console_size = _box(request.console_size) if request.tty else None
    process.env = _merged(process.env, ["TERM=xterm"] if request.tty else [], request.env or [])
    process.cwd = request.working_dir or process.cwd
    return process


def _box(size: Sequence[int] | None) -> runtime_spec.Box | None:
    return runtime_spec.Box(height=size[0], width=size[1]) if size and len(size) == 2 and all(size) else None


async def _identity(container: Container, rootfs: Sequence[Mount]) -> Identity:
    """Who the first process runs as; root, too, is looked up: the image may have put it into groups."""
    groups = tuple(container.host.group_add or ())
    if not is_untouched(rootfs):
        return await _lookup(rootfs, container.config.user, groups)
    key = (container.image_id, container.config.user, groups)
    if key not in _identities:
        while len(_identities) >= _IDENTITIES:
            _identities.pop(next(iter(_identities)))
        _identities[key] = await _lookup(rootfs, container.config.user, groups)
    return _identities[key]


async def _lookup(rootfs: Sequence[Mount], user: str, groups: Sequence[str]) -> Identity:
    def look() -> Identity:
        with open_rootfs(rootfs) as root:
            return resolve(root, user, groups)

    return await asyncio.to_thread(look)


def _inputs(parts: Parts, container: Container, endpoint: Endpoint, identity: Identity) -> spec.SpecInputs:
    config, host = container.config, container.host
    files = parts.files(container)
    security = _security(host)
    return spec.SpecInputs(
        id=container.id,
        args=tuple(container.path_and_args),
        hostname=config.hostname,
        domainname=config.domainname,
        env=tuple(_environment(container, identity)),
        cwd=config.working_dir or "/",
        terminal=config.tty,
        console_size=(host.console_size[0], host.console_size[1]) if len(host.console_size) == 2 else None,
        uid=identity.uid,
        gid=identity.gid,
        additional_gids=tuple(identity.additional_gids),
        readonly_rootfs=host.readonly_rootfs,
        privileged=host.privileged,
        cap_add=tuple(words(host.cap_add)),
        cap_drop=tuple(words(host.cap_drop)),
        no_new_privileges=security.no_new_privileges,
        seccomp=security.seccomp,
        masked_paths=_paths(host.masked_paths),
        readonly_paths=_paths(host.readonly_paths),
        mounts=tuple(_mounts(container)),
        resolv_conf_path=str(files.resolv_conf),
        hostname_path=str(files.hostname),
        hosts_path=str(files.hosts),
        shm_size=host.shm_size,
        init_path=init_program(parts.settings.init_path) if host.init else None,
        devices=tuple(_devices(host)),
        device_cgroup_rules=tuple(_device_rule(rule) for rule in host.device_cgroup_rules or ()),
        limits=limits(host),
        ulimits=tuple(spec.Ulimit(u.name, u.soft, u.hard) for u in host.ulimits or ()),
        oom_score_adj=host.oom_score_adj,
        sysctls=dict(host.sysctls or {}),
        namespaces=namespaces(parts.index, container, endpoint),
        cgroup_parent=host.cgroup_parent,
        annotations=dict(host.annotations or {}),
    )


def _paths(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """None is for the defaults; an empty list, as `systempaths=unconfined` makes one, for no paths."""
    return None if given is None else tuple(given)


def _environment(container: Container, identity: Identity) -> list[str]:
    """PATH, HOSTNAME and, on a terminal, TERM are Docker's; HOME is the runtime's to add."""
    own = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={container.config.hostname}"]
    if container.config.tty:
        own.append("TERM=xterm")
    return _merged(own, container.config.env or [])


def _merged(*lists: Sequence[str]) -> list[str]:
    """Environments on top of each other; an entry without "=" removes a variable."""
    found: dict[str, str] = {}
    for entries in lists:
        for entry in entries:
            name, equals, _ = entry.partition("=")
            if equals:
                found[name] = entry
            else:
                found.pop(name, None)
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class _Security:
    no_new_privileges: bool = False
    seccomp: str | None = None


def _security(host: HostConfig) -> _Security:
    """`--security-opt`. Raises `InvalidArgument` for one that Docker does not know either."""
    found = _Security()
    for option in host.security_opt or ():
        key, _, value = (
            option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        )
        if key == "no-new-privileges":
            found = dataclasses.replace(found, no_new_privileges=value in ("", "true"))
        elif key == "seccomp":
            found = dataclasses.replace(found, seccomp=None if value == "builtin" else value)
        elif key not in ("label", "apparmor", "systempaths", "writable-cgroups"):
            raise InvalidArgument(f"invalid --security-opt 2: {option!r}")
    return found


def _mounts(container: Container) -> list[spec.BindMount | spec.TmpfsMount]:
    found: list[spec.BindMount | spec.TmpfsMount] = [
        spec.BindMount(
            source=point.source,
            destination=point.destination,
            read_only=not point.rw,
            propagation=point.propagation or "rprivate",
        )
        for point in container.mounts
    ]
    for destination, options in (container.host.tmpfs or {}).items():
        found.append(spec.TmpfsMount(destination, tuple(o for o in options.split(",") if o)))
    found += [_tmpfs(request) for request in container.host.mounts or () if request.type == "tmpfs"]
    return found


def _tmpfs(request: MountRequest) -> spec.TmpfsMount:
    options = ["ro"] if request.read_only else []
    if given := request.tmpfs_options:
        options += [f"size={given.size_bytes}"] if given.size_bytes else []
        options += [f"mode={given.mode:o}"] if given.mode else []
    return spec.TmpfsMount(request.target, tuple(options))


def _devices(host: HostConfig) -> list[spec.DeviceMapping]:
    found: list[spec.DeviceMapping] = []
    for wanted in host.devices or ():
        inside = wanted.path_in_container or wanted.path_on_host
        device = hostinfo.device_at(wanted.path_on_host, inside)
        if device is None:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{wanted.path_on_host}": '
                "not a device node"
            )
        found.append(spec.DeviceMapping(device, wanted.cgroup_permissions or "rwm"))
    return found


def _device_rule(text: str) -> spec.DeviceCgroupRule:
    """`c 1:3 rwm` with `*` for any number."""
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, colon, minor = numbers.partition(":")
    valid = kind in ("a", "b", "c") and colon and all(n == "*" or n.isdecimal() for n in (major, minor))
    if not valid or not access or not set(access) <= set("rwm"):
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    return spec.DeviceCgroupRule(
        kind, None if major == "*" else int(major), None if minor == "*" else int(minor), access
    )


def limits(host: HostConfig) -> spec.Limits:
    """HostConfig's zeros and empty strings mean that nothing was asked for."""
    return spec.Limits(
        memory=host.memory or None,
        memory_swap=host.memory_swap or None,
        memory_reservation=host.memory_reservation or None,
        memory_swappiness=host.memory_swappiness,
        oom_kill_disable=host.oom_kill_disable or None,
        nano_cpus=host.nano_cpus or None,
        cpu_shares=host.cpu_shares or None,
        cpu_quota=host.cpu_quota or None,
        cpu_period=host.cpu_period or None,
        cpu_realtime_runtime=host.cpu_realtime_runtime or None,
        cpu_realtime_period=host.cpu_realtime_period or None,
        cpuset_cpus=host.cpuset_cpus or None,
        cpuset_mems=host.cpuset_mems or None,
        pids=host.pids_limit,
        blkio_weight=host.blkio_weight or None,
        blkio_read_bps=_throttles(host.blkio_device_read_bps),
        blkio_write_bps=_throttles(host.blkio_device_write_bps),
        blkio_read_iops=_throttles(host.blkio_device_read_iops),
        blkio_write_iops=_throttles(host.blkio_device_write_iops),
    )


def _throttles(wanted: Sequence[ThrottleDevice] | None) -> tuple[spec.ThrottleDevice, ...]:
    found = []
    for entry in wanted or ():
        device = hostinfo.device_at(entry.path, entry.path)
        if device is None:
            raise InvalidArgument(f"{entry.path}: not a device")
        found.append(spec.ThrottleDevice(device.major, device.minor, entry.rate))
    return tuple(found)


def init_program(configured: str) -> str:
    """The program for `--init`. Raises `InvalidArgument` when there is none on this machine."""
    candidates = [configured] if configured else [shutil.which(name) or "" for name in _INIT_NAMES]
    for path in candidates:
        if path and os.access(path, os.X_OK):
            return os.path.realpath(path)
    raise InvalidArgument(
        'exec: "docker-init": executable file not found in $PATH; '
        "install tini or start cutawayd with --init-path"
    )
