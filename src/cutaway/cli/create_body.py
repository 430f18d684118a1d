"""From flags to the body of `POST /containers/create`.

Only what was asked for is in the body; the daemon fills in its defaults. Mistakes that docker finds
on the client's side raise `InvalidArgument` with docker's words.
"""

import os

from cutaway.cli import terminal
from cutaway.cli.mounts import volumes_of
from cutaway.cli.ports import exposed, publish
from cutaway.cli.variables import environment, labels, pairs
from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values

# flag -> key, for flags whose value goes into the body as it is
_CONFIG_TEXTS = {
    "hostname": "Hostname",
    "domainname": "Domainname",
    "user": "User",
    "workdir": "WorkingDir",
    "mac-address": "MacAddress",
}
_HOST_TEXTS = {
    "cgroup-parent": "CgroupParent",
    "cgroupns": "CgroupnsMode",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "ipc": "IpcMode",
    "pid": "PidMode",
    "runtime": "Runtime",
    "userns": "UsernsMode",
    "uts": "UTSMode",
    "volume-driver": "VolumeDriver",
    "cidfile": "ContainerIDFile",
}
_HOST_LISTS = {
    "add-host": "ExtraHosts",
    "cap-add": "CapAdd",
    "cap-drop": "CapDrop",
    "device-cgroup-rule": "DeviceCgroupRules",
    "dns": "Dns",
    "dns-option": "DnsOptions",
    "dns-search": "DnsSearch",
    "group-add": "GroupAdd",
    "link": "Links",
    "volumes-from": "VolumesFrom",
}
_HOST_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "memory-swappiness": "MemorySwappiness",
    "oom-score-adj": "OomScoreAdj",
    "pids-limit": "PidsLimit",
    "shm-size": "ShmSize",
}
_HOST_SWITCHES = {
    "init": "Init",
    "oom-kill-disable": "OomKillDisable",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
}
_HEALTH_NUMBERS = {
    "health-interval": "Interval",
    "health-retries": "Retries",
    "health-start-period": "StartPeriod",
    "health-timeout": "Timeout",
}


BUILT_IN_NETWORKS = ("default", "bridge", "host", "none")


def create_body(
    values: "Values", image: str, command: list[str], *, detach: bool = False
) -> "dict[str, Any]":
    """The request's body. Raises `InvalidArgument` for flags that contradict each other or make no sense."""
    ports, bindings = publish(values.texts("publish"))
    for port in exposed(values.texts("expose")):
        ports.setdefault(port, {})
    binds, anonymous = volumes_of(values.texts("volume"))
    config = _config(values, image, command, detach)
    if ports:
        config["ExposedPorts"] = ports
    if anonymous:
        config["Volumes"] = anonymous
    host = _host_config(values)
    if binds:
        host["Binds"] = binds
    if bindings:
        host["PortBindings"] = bindings
    config["HostConfig"] = host
    config["NetworkingConfig"] = {"EndpointsConfig": _endpoints(values, host["NetworkMode"])}
    return config


def _config(values: "Values", image: str, command: list[str], detach: bool) -> "dict[str, Any]":
    streams = [] if detach else _streams(values)
    interactive = values.on("interactive")
    config: dict[str, Any] = {
        key: values.text(flag) for flag, key in _CONFIG_TEXTS.items() if values.given(flag)
    }
    config |= {
        "Image": image,
        "Cmd": command or None,
        "Tty": values.on("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and "stdin" in streams,
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "Env": environment(values.texts("env-file"), values.texts("env")),
        "Labels": labels(values.texts("label-file"), values.texts("label")),
    }
    if values.given("entrypoint"):
        config["Entrypoint"] = [values.text("entrypoint")]
    if values.given("stop-signal"):
        config["StopSignal"] = values.text("stop-signal")
    if values.given("stop-timeout"):
        config["StopTimeout"] = values.number("stop-timeout")
    health = _health(values)
    if health:
        config["Healthcheck"] = health
    return config


def _streams(values: "Values") -> list[str]:
    """Which streams are attached: those asked for, or stdout, stderr and with -i stdin."""
    asked = values.texts("attach")
    if asked:
        return asked
    return ["stdout", "stderr", "stdin"] if values.on("interactive") else ["stdout", "stderr"]


def _health(values: "Values") -> "dict[str, Any]":
    given = [flag for flag in ("health-cmd", *_HEALTH_NUMBERS) if values.given(flag)]
    if values.on("no-healthcheck"):
        if given:
            raise InvalidArgument("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    health: dict[str, Any] = {
        key: values.number(flag) for flag, key in _HEALTH_NUMBERS.items() if values.given(flag)
    }
    if values.given("health-cmd"):
        health["Test"] = ["CMD-SHELL", values.text("health-cmd")]
    return health


def _host_config(values: "Values") -> "dict[str, Any]":
    host: dict[str, Any] = {"NetworkMode": _network(values)}
    host |= {key: values.text(flag) for flag, key in _HOST_TEXTS.items() if values.given(flag)}
    host |= {key: values.texts(flag) for flag, key in _HOST_LISTS.items() if values.given(flag)}
    host |= {key: values.number(flag) for flag, key in _HOST_NUMBERS.items() if values.given(flag)}
    host |= {key: values.on(flag) for flag, key in _HOST_SWITCHES.items() if values.given(flag)}
    host["RestartPolicy"] = _restart(values.text("restart"))
    if values.on("rm") and host["RestartPolicy"]["Name"] not in ("", "no"):
        raise InvalidArgument("Conflicting options: --restart and --rm")
    if values.on("tty"):
        host["ConsoleSize"] = list(terminal.size())
    if values.given("log-driver") or values.given("log-opt"):
        host["LogConfig"] = {"Type": values.text("log-driver"), "Config": pairs(values.texts("log-opt"))}
    if values.given("sysctl"):
        host["Sysctls"] = pairs(values.texts("sysctl"))
    if values.given("storage-opt"):
        host["StorageOpt"] = pairs(values.texts("storage-opt"))
    if values.given("ulimit"):
        host["Ulimits"] = values.items("ulimit")
    if values.given("device"):
        host["Devices"] = [_device(text) for text in values.texts("device")]
    if values.given("tmpfs"):
        host["Tmpfs"] = {text.partition(":")[0]: text.partition(":")[2] for text in values.texts("tmpfs")}
    if values.given("mount"):
        host["Mounts"] = values.items("mount")
    host |= _security(values.texts("security-opt"))
    return host


def _network(values: "Values") -> str:
    names = values.texts("network") + values.texts("net")
    if len(names) > 1:
        raise InvalidArgument(f"one network at a time: {', '.join(names)} were given")
    return names[0] if names else "default"


def _endpoints(values: "Values", network: str) -> "dict[str, Any]":
    """Settings for a network of the user's own; the built-in ones take none."""
    if network in BUILT_IN_NETWORKS or network.startswith("container:"):
        return {}
    endpoint: dict[str, Any] = {}
    aliases = values.texts("network-alias") + values.texts("net-alias")
    if aliases:
        endpoint["Aliases"] = aliases
    addresses = {"IPv4Address": values.text("ip"), "IPv6Address": values.text("ip6")}
    if any(addresses.values()):
        endpoint["IPAMConfig"] = {key: value for key, value in addresses.items() if value}
    return {network: endpoint} if endpoint else {}


def _restart(text: str) -> "dict[str, Any]":
    name, colon, count = text.partition(":")
    if colon and not count.isdecimal():
        raise InvalidArgument("maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or "0")}


def _device(text: str) -> "dict[str, str]":
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise InvalidArgument(f"bad format for path: {text}")
    source, target, rights = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        target, rights = parts[1], parts[2]
    elif len(parts) == 2:
        if parts[1] and set(parts[1]) <= set("rwm"):
            rights = parts[1]
        else:
            target = parts[1]
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": rights}


def _security(options: list[str]) -> "dict[str, Any]":
    """SecurityOpt, with a seccomp profile's file replaced by what is in it."""
    kept: list[str] = []
    result: dict[str, Any] = {}
    for option in options:
        name, _, value = (
            option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        )
        if name == "systempaths" and value == "unconfined":
            result |= {"MaskedPaths": [], "ReadonlyPaths": []}
        elif name == "seccomp" and value != "unconfined":
            kept.append(f"seccomp={_profile(value)}")
        else:
            kept.append(option)
    return result | ({"SecurityOpt": kept} if kept else {})


def _profile(path: str) -> str:
    from cutaway.cli import jsontext

    try:
        with open(os.fspath(path), "rb") as file:
            return jsontext.dumps(jsontext.loads(file.read(), path))
    except OSError as error:
        raise InvalidArgument(
            f"opening seccomp profile ({path}) failed: open {path}: {(error.strerror or str(error)).lower()}"
        ) from None
