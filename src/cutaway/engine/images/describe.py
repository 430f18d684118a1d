"""Images as the Engine API shows them: list, inspect and history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cutaway.engine.images.model import Image
from cutaway.engine.images.snapshots import Snapshots
from cutaway.engine.timestamps import NEVER, parse
from cutaway.errors import InvalidArgument
from cutaway.oci.document import encode
from cutaway.oci.image_spec import ContainerConfig, History

Json = dict[str, object]
Items = list[Json]

_EMPTY: Final = ContainerConfig()


async def unpacked_size(image: Image, snapshots: Snapshots) -> int:
    """Bytes that the image's layers take on disk; what they take packed while they are not unpacked."""
    total = 0
    for chain_id in image.chain_ids:
        total += await snapshots.usage(chain_id)
    return total or image.size


def created_seconds(image: Image) -> int:
    """When the image was built, seconds since the epoch; 0 if it does not say so in a form we know."""
    try:
        return parse(image.created, "created") // 1_000_000_000
    except InvalidArgument:
        return 0


def list_item(image: Image, size: int, containers: int = -1) -> Json:
    """One item of GET /images/json; `containers` is -1 when it was not counted."""
    settings = image.config.config or _EMPTY
    return {
        "Containers": containers,
        "Created": created_seconds(image),
        "Id": image.id,
        "Labels": settings.labels,
        "ParentId": "",
        "RepoDigests": list(image.repo_digests),
        "RepoTags": list(image.repo_tags),
        "SharedSize": -1,
        "Size": size,
        "VirtualSize": size,
    }


def inspect(image: Image, size: int, snapshotter: str, updated: str) -> Json:
    """The answer to GET /images/NAME/json."""
    config = image.config
    settings = container_config(config.config or _EMPTY)
    shown: Json = {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": _comment(config.history or []),
        "Created": image.created or NEVER,
        "Container": "",
        "ContainerConfig": container_config(_EMPTY),
        "DockerVersion": "",
        "Author": config.author or "",
        "Config": settings,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": size,
        "VirtualSize": size,
        "GraphDriver": {"Data": None, "Name": snapshotter},
        "RootFS": {"Type": config.rootfs.type, "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": updated},
        "Descriptor": encode(image.target),
    }
    if config.variant:
        shown["Variant"] = config.variant
    if config.os_version:
        shown["OsVersion"] = config.os_version
    return shown


def container_config(settings: ContainerConfig) -> Json:
    """An image's defaults in the form of a container's Config."""
    shown: Json = {
        "Hostname": "",
        "Domainname": "",
        "User": settings.user or "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": settings.env,
        "Cmd": settings.cmd,
        "Image": "",
        "Volumes": settings.volumes,
        "WorkingDir": settings.working_dir or "",
        "Entrypoint": settings.entrypoint,
        "OnBuild": settings.on_build,
        "Labels": settings.labels,
    }
    for key, value in (
        ("ExposedPorts", settings.exposed_ports),
        ("StopSignal", settings.stop_signal),
        ("Shell", settings.shell),
        ("Healthcheck", settings.healthcheck),
    ):
        if value:
            shown[key] = encode(value)
    return shown


def history(image: Image, sizes: Iterable[int]) -> Items:
    """The answer to GET /images/NAME/history, newest first; `sizes` are the layers', bottom first."""
    left = iter(sizes)
    entries = image.config.history or [History() for _ in image.diff_ids]
    shown: Items = [
        {
            "Id": "<missing>",
            "Created": _seconds(entry.created or ""),
            "CreatedBy": entry.created_by or "",
            "Tags": None,
            "Size": 0 if entry.empty_layer else next(left, 0),
            "Comment": entry.comment or "",
        }
        for entry in entries
    ]
    if shown:
        shown[-1] |= {"Id": image.id, "Tags": list(image.repo_tags) or None}
    return shown[::-1]


def _seconds(text: str) -> int:
    try:
        return parse(text, "created") // 1_000_000_000
    except InvalidArgument:
        return 0


def _comment(entries: list[History]) -> str:
    return (entries[-1].comment or "") if entries else ""
