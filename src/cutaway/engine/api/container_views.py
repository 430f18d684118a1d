"""Containers as Docker's JSON: a row of the list, and all of inspect."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cutaway.engine.api.network_views import network_settings, ports
from cutaway.engine.containers.model import Container, State, Status
from cutaway.engine.documents import wire
from cutaway.engine.timestamps import human_duration, rfc3339

if TYPE_CHECKING:
    from cutaway.engine.containers.execs import Exec
    from cutaway.engine.containers.parts import Parts

_PLAIN_WORD: Final = re.compile(r"[\w%+,./:=@^-]+", re.ASCII)
_DRIVER: Final = "overlayfs"


def status_text(state: State) -> str:
    """What `docker ps` shows under STATUS."""
    now = time.time()
    since_start = human_duration(max(0.0, now - state.started_ns / 1e9))
    since_end = human_duration(max(0.0, now - state.finished_ns / 1e9))
    match state.status:
        case Status.RUNNING:
            return f"Up {since_start}"
        case Status.PAUSED:
            return f"Up {since_start} (Paused)"
        case Status.RESTARTING:
            return f"Restarting ({state.exit_code}) {since_end} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.EXITED if state.finished_ns:
            return f"Exited ({state.exit_code}) {since_end} ago"
        case _:
            return "Created"


def command_line(words: list[str]) -> str:
    """The command as a shell would be given it, which is how Docker lists it."""
    return " ".join(word if _PLAIN_WORD.fullmatch(word) else _quoted(word) for word in words)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def list_item(container: Container, sizes: Mapping[str, int] | None = None) -> dict[str, object]:
    """A row of GET /containers/json."""
    item: dict[str, object] = {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image,
        "ImageID": container.image_id,
        "Command": command_line(container.path_and_args),
        "Created": container.created_ns // 1_000_000_000,
        "Ports": ports(container),
        "Labels": container.config.labels or {},
        "State": container.state.status.value,
        "Status": status_text(container.state),
        "HostConfig": {"NetworkMode": container.host.network_mode},
        "NetworkSettings": {"Networks": network_settings(container)["Networks"]},
        "Mounts": [wire(point) for point in container.mounts],
    }
    if sizes is not None:
        item |= {"SizeRw": sizes.get(container.id, 0), "SizeRootFs": sizes.get(container.id, 0)}
    return item


def state_view(state: State) -> dict[str, object]:
    """`State` of inspect."""
    return {
        "Status": state.status.value,
        "Running": state.is_active,
        "Paused": state.status is Status.PAUSED,
        "Restarting": state.status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": state.status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_ns),
        "FinishedAt": rfc3339(state.finished_ns),
    }


def inspect(parts: Parts, container: Container, size: int | None = None) -> dict[str, object]:
    """GET /containers/{id}/json."""
    files = parts.files(container)
    words = container.path_and_args
    running = [exec_.id for exec_ in container.execs.values() if exec_.running]
    view: dict[str, object] = {
        "Id": container.id,
        "Created": rfc3339(container.created_ns),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": state_view(container.state),
        "Image": container.image_id,
        "ResolvConfPath": str(files.resolv_conf),
        "HostnamePath": str(files.hostname),
        "HostsPath": str(files.hosts),
        "LogPath": str(files.log(container.id)) if container.log else "",
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": _DRIVER,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": running or None,
        "HostConfig": wire(container.host),
        "GraphDriver": {"Data": None, "Name": _DRIVER},
        "Mounts": [wire(point) for point in container.mounts],
        "Config": _config(container),
        "NetworkSettings": network_settings(container),
    }
    if size is not None:
        view |= {"SizeRw": size, "SizeRootFs": size}
    return view


def _config(container: Container) -> dict[str, object]:
    """`Config`, without the keys that Docker leaves out when they are not set."""
    view = wire(container.config)
    assert isinstance(view, dict)
    for key in ("ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress", "Shell",
                "StopSignal", "StopTimeout"):  # fmt: skip
        if view[key] is None:
            del view[key]
    view["Labels"] = view["Labels"] or {}
    return view


def exec_view(exec_: Exec) -> dict[str, object]:
    """GET /exec/{id}/json."""
    request = exec_.request
    command = request.command
    return {
        "ID": exec_.id,
        "Running": exec_.running,
        "ExitCode": exec_.exit_code,
        "ProcessConfig": {
            "tty": request.tty,
            "entrypoint": command[0],
            "arguments": command[1:],
            "privileged": request.privileged,
            **({"user": request.user} if request.user else {}),
        },
        "OpenStdin": request.attach_stdin,
        "OpenStderr": request.attach_stderr,
        "OpenStdout": request.attach_stdout,
        "CanRemove": exec_.exit_code is not None,
        "ContainerID": exec_.container.id,
        "DetachKeys": "",
        "Pid": exec_.pid,
    }
