"""`spec`: write a config.json to start from."""

import os

from cutaway.errors import AlreadyExists
from cutaway.linux import cgroups
from cutaway.runc import version
from cutaway.runc.config import FILE, enter_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SAFE = ["nosuid", "noexec", "nodev"]
_MOUNTS: "tuple[tuple[str, str, str, list[str]], ...]" = (
    ("/proc", "proc", "proc", []),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("/dev/shm", "tmpfs", "shm", [*_SAFE, "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", _SAFE),
    ("/sys", "sysfs", "sysfs", [*_SAFE, "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", [*_SAFE, "relatime", "ro"]),
)
_MASKED = [
    *("/proc/" + name for name in ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list")),
    *("/proc/" + name for name in ("timer_stats", "sched_debug", "scsi")),
    "/sys/firmware",
]
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def run(context: "Context", parsed: "Parsed") -> int:
    """Write config.json; 0."""
    import json

    enter_bundle(parsed.text("bundle"))
    config = default()
    if parsed.flag("rootless"):
        make_rootless(config)
    try:
        with open(FILE, "x", encoding="utf-8") as file:
            json.dump(config, file, indent="\t")
    except FileExistsError:
        raise AlreadyExists(f"File {FILE} exists. Remove it first") from None
    return 0


def default() -> "dict[str, Any]":
    """A shell on a terminal, in a read-only root, with few capabilities: as runc's."""
    kinds = ["pid", "network", "ipc", "uts", "mount"]
    if cgroups.mode() == "unified":
        kinds.append("cgroup")
    caps = {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted", "ambient")}
    return {
        "ociVersion": version.SPEC,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [_PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": caps,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "cutaway",
        "mounts": [_mount(*entry) for entry in _MOUNTS],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READONLY,
        },
    }


def _mount(destination: str, kind: str, source: str, options: list[str]) -> "dict[str, Any]":
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = options
    return mount


def make_rootless(config: "dict[str, Any]") -> None:
    """Change a configuration so that a user without root can run it: one id mapped, the host's network."""
    linux = config["linux"]
    linux["namespaces"] = [kind for kind in linux["namespaces"] if kind["type"] != "network"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    for mount in config["mounts"]:
        if mount["destination"] == "/sys":  # a sysfs of its own would need a network of its own
            mount.update(type="none", source="/sys", options=["rbind", *_SAFE, "ro"])
        elif "options" in mount:
            mount["options"] = [o for o in mount["options"] if not o.startswith(("gid=", "uid="))]
