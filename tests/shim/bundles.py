"""Bundles as the container service prepares them: config.json, streams, and files to run."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from support.images import busybox_image
from support.process import wait_until

TIMEOUT: Final = 20.0

MOUNTS: Final = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    },
]


@dataclass
class Fifo:
    """A stream as the container service makes it."""

    path: Path
    fd: int = -1

    def open(self) -> Self:
        """Open the reading end, before the shim opens its own, as clients do."""
        self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self.fd, False)
        return self

    def read_all(self, timeout: float = TIMEOUT) -> bytes:
        """Everything until the shim closes its end."""
        data = b""
        deadline = time.monotonic() + timeout
        os.set_blocking(self.fd, True)
        while time.monotonic() < deadline:
            part = os.read(self.fd, 65536)
            if not part:
                return data
            data += part
        raise AssertionError(f"no end of {self.path} after {data[-200:]!r}")

    def read_until(self, text: bytes, timeout: float = TIMEOUT) -> bytes:
        """Everything until a text has come."""
        data = b""

        def arrived() -> bool:
            nonlocal data
            try:
                data += os.read(self.fd, 65536)
            except BlockingIOError:
                return False
            return text in data

        wait_until(arrived, f"{text!r} on {self.path}", timeout)
        return data

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass
class Bundle:
    """A container's folder as the container service prepares it."""

    path: Path
    id: str
    streams: dict[str, Fifo] = field(default_factory=dict)

    def fifo(self, name: str) -> Fifo:
        """A new FIFO of this container, e.g. "stdout"."""
        path = self.path / name
        os.mkfifo(path, 0o700)
        self.streams[name] = Fifo(path)
        return self.streams[name]


def unpack(folder: Path) -> None:
    """The busybox image's files."""
    for layer in busybox_image().layers:
        with tarfile.open(fileobj=io.BytesIO(layer.tar)) as archive:
            # Debian 12's Python has no filter argument; the archive is our own.
            archive.extraction_filter = staticmethod(lambda member, _: member)
            archive.extractall(folder)


def process(args: Sequence[str], terminal: bool = False) -> dict[str, Any]:
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin"],
        "cwd": "/",
    }


def spec(args: Sequence[str], rootfs: Path, cgroup: str, *, terminal: bool = False) -> dict[str, Any]:
    """A small config.json."""
    return {
        "ociVersion": "1.0.2",
        "process": process(args, terminal),
        "root": {"path": os.fspath(rootfs)},
        "hostname": "box",
        "mounts": [*MOUNTS],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("mount", "uts", "ipc", "pid")],
        },
    }


def merge(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put changes into a document, objects into objects."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            merge(document[key], value)
        else:
            document[key] = value
