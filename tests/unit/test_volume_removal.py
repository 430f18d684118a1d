"""A volume that was being removed when the engine died: it is gone, and so is what was in it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from cutaway.engine.events import EventBus
from cutaway.engine.state.database import open_database
from cutaway.engine.volumes import VolumeStore
from cutaway.errors import NotFound


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    return open_database(tmp_path / "engine.db")


def store(database: sqlite3.Connection, folder: Path) -> VolumeStore:
    return VolumeStore(database, folder, EventBus())


@pytest.mark.parametrize("recorded", [True, False])
def test_a_removal_is_finished(database: sqlite3.Connection, tmp_path: Path, recorded: bool) -> None:
    folder = tmp_path / "volumes"
    volumes = store(database, folder)
    for name in ("going", "staying"):
        volume, _ = volumes.create(name)
        (volume.path / "data").write_text(name)
    os.rename(folder / "going", folder / ".removed-1")
    if not recorded:
        database.execute("DELETE FROM volumes WHERE name = 'going'")
    volumes = store(database, folder)
    with pytest.raises(NotFound):
        volumes.get("going")
    assert os.listdir(folder) == ["staying"]
    made, is_new = volumes.create("going")
    assert is_new and os.listdir(made.path) == []
    assert (volumes.get("staying").path / "data").read_text() == "staying"


def test_a_removed_volumes_data_does_not_come_back(database: sqlite3.Connection, tmp_path: Path) -> None:
    volumes = store(database, tmp_path / "volumes")
    (volumes.create("name")[0].path / "data").write_text("old")
    volumes.remove("name")
    assert os.listdir(tmp_path / "volumes") == []
    assert os.listdir(volumes.create("name")[0].path) == []


def test_folders_that_nobody_records_stay_with_what_is_in_them(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """They may be all that is left of somebody's data. Empty ones are what a crash has left of a creation."""
    for name in ("lost", "half", "whole"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
    (tmp_path / "volumes/whole/_data").mkdir()
    (tmp_path / "volumes/lost/_data/inside").mkdir(parents=True)
    store(database, tmp_path / "volumes").create("kept")
    store(database, tmp_path / "volumes")
    assert sorted(os.listdir(tmp_path / "volumes")) == ["kept", "lost"]
