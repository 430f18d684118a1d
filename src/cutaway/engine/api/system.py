"""/_ping, /version, /info: about the daemon itself."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

import cutaway
from cutaway.engine import hostinfo
from cutaway.engine.api import body, version
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.containers.model import Status
from cutaway.engine.peers import runtime_version
from cutaway.engine.timestamps import now_ns, rfc3339
from cutaway.errors import CutawayError, Unimplemented
from cutaway.registry.client.proxies import without_password

if TYPE_CHECKING:
    from cutaway.engine.daemon import Daemon


def routes() -> list[web.RouteDef]:
    return [
        web.get("/_ping", ping),
        web.get("/version", show_version),
        web.get("/info", info),
        *(web.post(path, unimplemented) for path in ("/build", "/session")),
    ]


async def unimplemented(request: web.Request) -> web.Response:
    """What a client should not take for a mistyped path."""
    raise Unimplemented(f"{request.method} {request.path}: not supported by this engine yet")


async def ping(_: web.Request) -> web.Response:
    return web.Response(
        text="OK", headers={"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    )


async def _containerd_version(daemon: Daemon) -> tuple[str, str]:
    try:
        return await daemon.runtime.version()
    except CutawayError:
        return "", ""


async def show_version(request: web.Request) -> web.Response:
    daemon = daemon_of(request)
    details = {
        "ApiVersion": version.API_VERSION,
        "Arch": version.architecture(),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": f"python{platform.python_version()}",
        "KernelVersion": os.uname().release,
        "MinAPIVersion": version.MIN_API_VERSION,
        "Os": "linux",
    }
    containerd, revision = await _containerd_version(daemon)
    runtime = daemon.settings.runtimes[daemon.settings.default_runtime]
    runc, commit = await runtime_version(runtime.binary)
    components = [
        {"Name": "Engine", "Version": cutaway.__version__, "Details": details},
        {"Name": "containerd", "Version": containerd, "Details": {"GitCommit": revision}},
        {
            "Name": Path(runtime.binary).name or runtime.name,
            "Version": runc,
            "Details": {"GitCommit": commit},
        },
    ]
    return body.json_response(
        {
            "Platform": {"Name": "Cutaway"},
            "Components": components,
            "Version": cutaway.__version__,
            "ApiVersion": version.API_VERSION,
            "MinAPIVersion": version.MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": details["GoVersion"],
            "Os": "linux",
            "Arch": version.architecture(),
            "KernelVersion": details["KernelVersion"],
            "BuildTime": "",
        }
    )


async def info(request: web.Request) -> web.Response:
    daemon = daemon_of(request)
    system, system_version = hostinfo.operating_system()
    containerd, revision = await _containerd_version(daemon)
    settings = daemon.settings
    view: dict[str, object] = {
        "ID": daemon.identity,
        "Images": len(await daemon.images.list()),
        "Driver": settings.snapshotter,
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": ["json-file", "none"],
        },
        "SystemTime": rfc3339(now_ns()),
        "LoggingDriver": "json-file",
        "NEventsListener": daemon.events.listeners,
        "KernelVersion": os.uname().release,
        "OperatingSystem": system,
        "OSVersion": system_version,
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "NCPU": os.cpu_count() or 1,
        "MemTotal": hostinfo.memory_total(),
        "DockerRootDir": str(settings.data_root),
        "Name": os.uname().nodename,
        "ServerVersion": cutaway.__version__,
        "Runtimes": {name: {"path": r.binary or r.shim} for name, r in sorted(settings.runtimes.items())},
        "DefaultRuntime": settings.default_runtime,
        "InitBinary": settings.init_path or "docker-init",
        "ContainerdCommit": {"ID": revision or containerd, "Expected": revision or containerd},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "Warnings": None,
    }
    return body.json_response(view | _counts(daemon) | _abilities() | _constants(daemon))


def _counts(daemon: Daemon) -> dict[str, object]:
    states = [container.state.status for container in daemon.containers.index]
    running = sum(state in (Status.RUNNING, Status.RESTARTING) for state in states)
    paused = states.count(Status.PAUSED)
    return {
        "Containers": len(states),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": len(states) - running - paused,
        "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": len(daemon.parts.tasks),
    }


def _abilities() -> dict[str, object]:
    """What the kernel lets a container be limited by, and how it is kept apart."""
    unified = hostinfo.has_cgroup2()
    version_text = "2" if unified else "1"
    limits = dict.fromkeys(
        ("MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit"), True
    )
    security = ["name=seccomp,profile=builtin"] if hostinfo.host().seccomp else []
    return {
        **limits,
        "OomKillDisable": not unified,
        "IPv4Forwarding": True,
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": version_text,
        "SecurityOptions": security + (["name=cgroupns"] if unified else []),
    }


def _registry_config(daemon: Daemon) -> dict[str, object]:
    """How registries are reached; networks are listed apart from hosts, and loopback always."""
    settings = daemon.settings
    networks = [name for name in settings.insecure_registries if "/" in name]
    hosts = [name for name in settings.insecure_registries if "/" not in name]
    mirrors = list(settings.registry_mirrors)
    hub = {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True}
    others = {host: {"Name": host, "Mirrors": [], "Secure": False, "Official": False} for host in hosts}
    return {
        "InsecureRegistryCIDRs": [*networks, "::1/128", "127.0.0.0/8"],
        "IndexConfigs": {"docker.io": hub, **others},
        "Mirrors": mirrors,
    }


def _constants(daemon: Daemon) -> dict[str, object]:
    proxies = daemon.settings.proxies
    return {
        "Debug": daemon.settings.log_level == "debug",
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": _registry_config(daemon),
        "GenericResources": None,
        "HttpProxy": without_password(proxies.http),
        "HttpsProxy": without_password(proxies.https),
        "NoProxy": proxies.no_proxy,
        "Labels": [],
        "ExperimentalBuild": False,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "CDISpecDirs": [],
        "ProductLicense": f"Apache-2.0 (Cutaway on Python {sys.version_info.major}.{sys.version_info.minor})",
    }
