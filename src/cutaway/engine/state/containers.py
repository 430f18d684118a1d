"""Containers in the database: one row each, read once at start, written at every change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cutaway.engine.containers.config import Config, HostConfig
from cutaway.engine.containers.model import Container, State, Status
from cutaway.engine.containers.mounts import MountPoint
from cutaway.engine.documents import to_json
from cutaway.engine.state.database import translated
from cutaway.faults import point
from cutaway.oci.document import decode
from cutaway.trace import context

_COLUMNS: Final = [
    "id",
    "name",
    "created_ns",
    "image_id",
    "config",
    "host_config",
    "mounts",
    "mac_address",
    "traceparent",
    "status",
    "pid",
    "exit_code",
    "error",
    "oom_killed",
    "started_ns",
    "finished_ns",
    "restart_count",
    "stopped_by_user",
]
_INSERT: Final = (
    f"INSERT INTO containers ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{c}' for c in _COLUMNS)})"
)
_STATE: Final = _COLUMNS[_COLUMNS.index("status") :]
_UPDATE_STATE: Final = f"UPDATE containers SET {', '.join(f'{c} = :{c}' for c in _STATE)} WHERE id = :id"


class ContainerTable:
    """The `containers` table."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def load(self) -> list[Container]:
        """Every stored container, oldest first."""
        rows = self._connection.execute("SELECT * FROM containers ORDER BY created_ns").fetchall()
        return [_container(row) for row in rows]

    def _write(self, statement: str, values: Mapping[str, object] | Sequence[object]) -> None:
        """Raises what can be done about it: `ResourceExhausted` on a full disk and so on."""
        point("engine.state.before-write")
        try:
            self._connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise translated(error, self._path) from None
        point("engine.state.written")

    def insert(self, container: Container) -> None:
        self._write(_INSERT, {**_identity(container), **_state(container)})

    def save_state(self, container: Container) -> None:
        """Write what changes in a container's life; its configuration stays as it was inserted."""
        self._write(_UPDATE_STATE, {"id": container.id, **_state(container)})

    def save_config(self, container: Container) -> None:
        """Write what rename and update change."""
        self._write(
            "UPDATE containers SET name = ?, host_config = ? WHERE id = ?",
            (container.name, to_json(container.host), container.id),
        )

    def delete(self, container_id: str) -> None:
        self._write("DELETE FROM containers WHERE id = ?", (container_id,))


def _identity(container: Container) -> dict[str, object]:
    return {
        "id": container.id,
        "name": container.name,
        "created_ns": container.created_ns,
        "image_id": container.image_id,
        "config": to_json(container.config),
        "host_config": to_json(container.host),
        "mounts": to_json(container.mounts),
        "mac_address": container.mac_address,
        "traceparent": container.trace.traceparent if container.trace else "",
    }


def _state(container: Container) -> dict[str, object]:
    state = container.state
    return {
        "status": state.status.value,
        "pid": state.pid,
        "exit_code": state.exit_code,
        "error": state.error,
        "oom_killed": state.oom_killed,
        "started_ns": state.started_ns,
        "finished_ns": state.finished_ns,
        "restart_count": container.restart_count,
        "stopped_by_user": container.stopped_by_user,
    }


def _container(row: sqlite3.Row) -> Container:
    return Container(
        id=row["id"],
        name=row["name"],
        created_ns=row["created_ns"],
        image_id=row["image_id"],
        config=decode(Config, json.loads(row["config"])),
        host=decode(HostConfig, json.loads(row["host_config"])),
        mounts=[decode(MountPoint, entry) for entry in json.loads(row["mounts"])],
        mac_address=row["mac_address"],
        trace=context.parse(row["traceparent"]),
        state=State(
            status=Status(row["status"]),
            pid=row["pid"],
            exit_code=row["exit_code"],
            error=row["error"],
            oom_killed=bool(row["oom_killed"]),
            started_ns=row["started_ns"],
            finished_ns=row["finished_ns"],
        ),
        restart_count=row["restart_count"],
        stopped_by_user=bool(row["stopped_by_user"]),
    )
