"""Volumes: named folders that outlive containers, in DATA_ROOT/volumes/NAME/_data. One driver: local."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cutaway.engine.events import EventBus
from cutaway.engine.timestamps import now_ns
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound
from cutaway.faults import point

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

# Folders of volumes that are being removed; no volume's name begins like this.
_REMOVED: Final = ".removed-"


@dataclass(frozen=True)
class Volume:
    """A volume; an anonymous one goes with its container if that is asked for."""

    name: str
    path: Path
    created_ns: int
    labels: Mapping[str, str]
    options: Mapping[str, str]
    anonymous: bool


class VolumeStore:
    """The volumes, in the database and on disk. `users` tells which containers use one."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, events: EventBus) -> None:
        self._connection = connection
        self._folder = folder
        self._events = events
        self.users: Callable[[str], list[str]] = lambda name: []
        self._finish_removals()

    def _finish_removals(self) -> None:
        """Those that a crash has cut short: a volume is out of its place before it is forgotten."""
        removed = sorted(self._folder.glob(f"{_REMOVED}*"))
        if removed:
            for volume in self.list():
                if not volume.path.exists():
                    self._connection.execute("DELETE FROM volumes WHERE name = ?", (volume.name,))
        for folder in removed:
            shutil.rmtree(folder)
        self._remove_unnoted()

    def _remove_unnoted(self) -> None:
        """Folders that a crash came upon before they were noted: empty ones, so that nothing is ever lost."""
        known = {volume.name for volume in self.list()}
        for folder in self._folder.glob("*"):
            if folder.name not in known:
                with suppress(OSError):
                    (folder / "_data").rmdir()
                with suppress(OSError):
                    folder.rmdir()

    def list(self) -> list[Volume]:
        rows = self._connection.execute("SELECT * FROM volumes ORDER BY name").fetchall()
        return [self._volume(row) for row in rows]

    def get(self, name: str) -> Volume:
        """Raises `NotFound` in Docker's words."""
        row = self._connection.execute("SELECT * FROM volumes WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"get {name}: no such volume")
        return self._volume(row)

    def _volume(self, row: sqlite3.Row) -> Volume:
        return Volume(
            name=row["name"],
            path=self._folder / row["name"] / "_data",
            created_ns=row["created_ns"],
            labels=json.loads(row["labels"]),
            options=json.loads(row["options"]),
            anonymous=bool(row["anonymous"]),
        )

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> tuple[Volume, bool]:
        """Make a volume, or return the one that is there; the second value tells whether it is new.

        Raises `InvalidArgument` for a bad name, `NotFound` for a driver other than local.
        """
        anonymous = not name
        name = name or secrets.token_hex(32)
        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
                "use absolute path"
            )
        if driver not in ("", "local"):
            raise NotFound(
                f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
            )
        if options:
            raise InvalidArgument(
                f"create {name}: options of the local driver are not supported: {sorted(options)}"
            )
        try:
            return self.get(name), False
        except NotFound:
            pass
        return self._make(name, labels or {}, anonymous), True

    def _make(self, name: str, labels: Mapping[str, str], anonymous: bool) -> Volume:
        path = self._folder / name / "_data"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        path.parent.mkdir(exist_ok=True, mode=0o701)
        path.mkdir(exist_ok=True)
        os.chmod(path, 0o755)
        point("engine.volumes.made")
        self._connection.execute(
            "INSERT INTO volumes VALUES (?, ?, ?, ?, ?)",
            (name, now_ns(), json.dumps(dict(labels)), "{}", anonymous),
        )
        point("engine.volumes.noted")
        self._events.publish("volume", "create", name, {"driver": "local"})
        return self.get(name)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume that no container uses. Raises `NotFound`, `FailedPrecondition`."""
        try:
            volume = self.get(name)
        except NotFound:
            if force:
                return
            raise
        if users := self.users(name):
            raise FailedPrecondition(f"remove {name}: volume is in use - [{', '.join(users)}]")
        # Out of its place before it is forgotten: a volume of this name made later must not find it there.
        removed = self._folder / f"{_REMOVED}{uuid.uuid4()}"
        os.rename(volume.path.parent, removed)
        point("engine.volumes.set-aside")
        self._connection.execute("DELETE FROM volumes WHERE name = ?", (name,))
        point("engine.volumes.forgotten")
        shutil.rmtree(removed)
        self._events.publish("volume", "destroy", name, {"driver": "local"})

    def remove_anonymous(self, names: Iterable[str]) -> None:
        """Remove those of the named volumes that have no name of their own and no other user."""
        for name in names:
            try:
                if self.get(name).anonymous:
                    self.remove(name)
            except (NotFound, FailedPrecondition):
                continue


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder, each once whatever its links; those that vanish are not counted."""
    total, seen, waiting = 0, set[tuple[int, int]](), [os.fspath(folder)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total
