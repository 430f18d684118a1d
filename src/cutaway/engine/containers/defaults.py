"""What a create request leaves open comes from the image and Docker's defaults; what cannot be is refused."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import Final

from cutaway.engine import hostinfo, signals
from cutaway.engine.containers.config import Config, HostConfig, words
from cutaway.engine.containers.files import host_name
from cutaway.engine.logs.writer import check_options
from cutaway.engine.settings import Runtime
from cutaway.engine.spec import capabilities
from cutaway.engine.spec import defaults as spec_defaults
from cutaway.errors import InvalidArgument, Unimplemented
from cutaway.oci.image_spec import ContainerConfig

SHM_SIZE: Final = 64 << 20
MINIMUM_MEMORY: Final = 6 << 20
_RESTART_POLICIES: Final = ("", "no", "always", "on-failure", "unless-stopped")


def merge_image(config: Config, image: ContainerConfig) -> None:
    """Fill in what the request leaves to the image, by Docker's rules (moby: image defaults at create).

    A command of the request replaces the image's; an entry point of the request drops the image's command.
    """
    config.user = config.user or image.user or ""
    config.working_dir = config.working_dir or image.working_dir or ""
    config.stop_signal = config.stop_signal or image.stop_signal
    config.shell = config.shell or image.shell
    config.healthcheck = config.healthcheck or image.healthcheck
    config.labels = {**(image.labels or {}), **(config.labels or {})}
    config.exposed_ports = {**(image.exposed_ports or {}), **(config.exposed_ports or {})} or None
    config.volumes = {**(image.volumes or {}), **(config.volumes or {})} or None
    given = {entry.partition("=")[0] for entry in config.env or ()}
    config.env = [*(config.env or ()), *(e for e in image.env or () if e.partition("=")[0] not in given)]
    _merge_command(config, image)


def _merge_command(config: Config, image: ContainerConfig) -> None:
    entrypoint, command = words(config.entrypoint), words(config.cmd)
    unset = config.entrypoint is None
    if not entrypoint:
        command = command or list(image.cmd or ())
        entrypoint = list(image.entrypoint or ()) if unset else []
    config.entrypoint = None if entrypoint in ([], [""]) else entrypoint
    config.cmd = command or None


def check_config(config: Config) -> None:
    """Refuse a configuration that can never run. Raises `InvalidArgument` in Docker's words."""
    if not words(config.entrypoint) + words(config.cmd):
        raise InvalidArgument("no command specified")
    if config.working_dir:
        if not config.working_dir.startswith("/"):
            raise InvalidArgument(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        config.working_dir = posixpath.normpath("/" + config.working_dir.lstrip("/"))
    for entry in config.env or ():
        if entry.startswith("=") or not entry or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if any("\0" in word for word in words(config.entrypoint) + words(config.cmd)):
        raise InvalidArgument("a command must not contain a NUL byte")
    if config.stop_signal:
        signals.parse(config.stop_signal)
    if len(config.hostname) > 64:
        raise InvalidArgument(f"invalid hostname: {config.hostname}: at most 64 characters")


def fill_host_config(host: HostConfig, runtimes: Mapping[str, Runtime], default_runtime: str) -> None:
    """Docker's defaults for what a request leaves open, so that inspect shows what was used."""
    host.network_mode = host.network_mode or "default"
    host.shm_size = host.shm_size or SHM_SIZE
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or (
        "private" if hostinfo.has_cgroup2() and not host.privileged else "host"
    )
    host.runtime = host.runtime or default_runtime
    host.log_config.type = host.log_config.type or "json-file"
    host.restart_policy.name = host.restart_policy.name or "no"
    host.cap_add = capabilities.normalized(words(host.cap_add)) or None
    host.cap_drop = capabilities.normalized(words(host.cap_drop)) or None
    host.memory_swappiness = None if host.memory_swappiness == -1 else host.memory_swappiness
    host.pids_limit = None if host.pids_limit in (0, -1) else host.pids_limit
    if host.memory and not host.memory_swap:
        host.memory_swap = 2 * host.memory
    unmasked = host.privileged or "systempaths=unconfined" in (host.security_opt or ())
    if host.masked_paths is None:
        host.masked_paths = [] if unmasked else list(spec_defaults.MASKED_PATHS)
    if host.readonly_paths is None:
        host.readonly_paths = [] if unmasked else list(spec_defaults.READONLY_PATHS)
    if host.runtime not in runtimes:
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")


def check_host_config(host: HostConfig) -> None:
    """Refuse what contradicts itself, and what is not built, each with one line."""
    _check_restart_policy(host)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    _check_capabilities(host)
    _check_memory(host)
    _check_cpu(host)
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    check_options(host.log_config.type or "json-file", host.log_config.config)
    _check_ports(host)
    _check_unbuilt(host)


def _check_restart_policy(host: HostConfig) -> None:
    policy = host.restart_policy
    if policy.name not in _RESTART_POLICIES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0 or (policy.maximum_retry_count and policy.name != "on-failure"):
        raise InvalidArgument(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )


def _check_capabilities(host: HostConfig) -> None:
    """At create, as in Docker: a start that must fail is no use to anyone."""
    try:
        capabilities.checked_added(words(host.cap_add), hostinfo.host())
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid CapAdd: {error}") from None
    try:
        capabilities.normalized(words(host.cap_drop))
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid CapDrop: {error}") from None


def _check_memory(host: HostConfig) -> None:
    if host.memory and host.memory < MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")


def _check_cpu(host: HostConfig) -> None:
    if host.nano_cpus < 0 or host.nano_cpus > (os.cpu_count() or 1) * 1_000_000_000:
        count = os.cpu_count()
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")


def _check_ports(host: HostConfig) -> None:
    for port, bindings in (host.port_bindings or {}).items():
        number, _, protocol = port.partition("/")
        if not (number.isdecimal() and 1 <= int(number) <= 65535) or protocol not in (
            "",
            "tcp",
            "udp",
            "sctp",
        ):
            raise InvalidArgument(f'invalid port specification: "{port}"')
        for binding in bindings:
            text = binding.host_port
            if text and not all(p.isdecimal() and int(p) <= 65535 for p in text.split("-", 1)):
                raise InvalidArgument(f'invalid port specification: "{text}"')


def _check_unbuilt(host: HostConfig) -> None:
    unbuilt = {
        "--volumes-from": host.volumes_from,
        "--link": host.links,
        "--device-requests (--gpus)": host.device_requests,
        "--storage-opt": host.storage_opt,
        "--userns": host.userns_mode not in ("", "host"),
    }
    for flag, value in unbuilt.items():
        if value:
            raise Unimplemented(f"{flag} is not supported by this engine")


def default_hostname(config: Config, host: HostConfig, container_id: str) -> None:
    """The host's own name on the host's network, else the short id."""
    if not config.hostname:
        on_host = host.network_mode == "host" or host.uts_mode == "host"
        config.hostname = host_name() if on_host else container_id[:12]
