"""`-v`, `--mount` and an image's VOLUMES become mount points; volumes are made on the way."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cutaway.engine.containers.config import Config, HostConfig, MountRequest
from cutaway.engine.containers.mounts import MountPoint
from cutaway.engine.volumes import VolumeStore
from cutaway.errors import InvalidArgument, Unimplemented

_PROPAGATIONS: Final = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_OTHER_MODES: Final = ("z", "Z", "nocopy", "consistent", "cached", "delegated")


class MountPlanner:
    """Plans a container's mount points. What it made is in `made`, to be removed if the create fails."""

    def __init__(self, volumes: VolumeStore) -> None:
        self._volumes = volumes
        self.made: list[str] = []
        self.fresh: list[MountPoint] = []
        """Mount points on volumes that are new, to be filled with what the image has there."""

    def plan(self, config: Config, host: HostConfig) -> list[MountPoint]:
        """Mount points in the order of the request. Raises `InvalidArgument` in Docker's words."""
        points: dict[str, MountPoint] = {}
        for text in host.binds or ():
            self._add(points, self._bind(text))
        for request in host.mounts or ():
            if request.type != "tmpfs":
                self._add(points, self._mount(request))
        for destination in config.volumes or {}:
            clean = _destination(destination, destination)
            if clean not in points and clean not in (host.tmpfs or {}):
                points[clean] = self._volume("", clean, "", True)
        return list(points.values())

    @staticmethod
    def _add(points: dict[str, MountPoint], point: MountPoint) -> None:
        if point.destination in points:
            raise InvalidArgument(f"Duplicate mount point: {point.destination}")
        points[point.destination] = point

    def _bind(self, text: str) -> MountPoint:
        """`[SOURCE:]DESTINATION[:MODE,...]`."""
        parts = text.split(":")
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise InvalidArgument(f"invalid volume specification: '{text}'")
        mode = parts[2] if len(parts) == 3 else ""
        source = parts[0] if len(parts) > 1 else ""
        destination = _destination(parts[1] if len(parts) > 1 else parts[0], text)
        writable, propagation, copies = _mode(mode, text)
        if not source.startswith("/"):
            return self._volume(source, destination, mode, writable, copies=copies)
        return MountPoint(
            type="bind",
            source=posixpath.normpath(source),
            destination=destination,
            mode=mode,
            rw=writable,
            propagation=propagation or "rprivate",
        )

    def _volume(
        self, name: str, destination: str, mode: str, writable: bool, *, copies: bool = True
    ) -> MountPoint:
        volume, new = self._volumes.create(name)
        point = MountPoint(
            type="volume",
            name=volume.name,
            source=str(volume.path),
            destination=destination,
            driver="local",
            mode=mode,
            rw=writable,
        )
        if new:
            self.made.append(volume.name)
            if copies:
                self.fresh.append(point)
        return point

    def _mount(self, request: MountRequest) -> MountPoint:
        destination = _destination(request.target, request.target)
        if request.type == "volume":
            copies = not (request.volume_options and request.volume_options.no_copy)
            return self._volume(request.source, destination, "z", not request.read_only, copies=copies)
        if request.type != "bind":
            raise Unimplemented(f"mount type {request.type!r} is not supported: use bind, volume or tmpfs")
        if not request.source.startswith("/"):
            raise InvalidArgument(
                f"invalid mount config for type \"bind\": invalid mount path: '{request.source}' "
                "mount path must be absolute"
            )
        if not Path(request.source).exists() and not (
            request.bind_options and request.bind_options.create_mountpoint
        ):
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {request.source}'
            )
        propagation = (request.bind_options and request.bind_options.propagation) or "rprivate"
        return MountPoint(
            type="bind",
            source=posixpath.normpath(request.source),
            destination=destination,
            rw=not request.read_only,
            propagation=propagation,
        )


def _destination(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid mount path: '{path}' "
            "mount path must be absolute"
        )
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid mount config: destination can't be '/'"
        )
    return clean


def _mode(mode: str, text: str) -> tuple[bool, str, bool]:
    """Writable, propagation, and whether a new volume is filled from the image."""
    words = [word for word in mode.split(",") if word]
    writable, propagation, copies = True, "", True
    for word in words:
        if word in ("ro", "rw"):
            writable = word == "rw"
        elif word in _PROPAGATIONS:
            propagation = word
        elif word in _OTHER_MODES:
            copies = copies and word != "nocopy"
        else:
            raise InvalidArgument(f"invalid mode: {mode} in volume specification '{text}'")
    return writable, propagation, copies


def prepare_sources(points: Sequence[MountPoint]) -> None:
    """Make the folders that `-v /host/path:...` names and that are not there, as Docker does."""
    for point in points:
        if point.type == "bind" and not Path(point.source).exists():
            Path(point.source).mkdir(parents=True)
