"""The engine's own id."""

from __future__ import annotations

from pathlib import Path

from cutaway.engine.daemon import identity


def test_it_is_made_once(tmp_path: Path) -> None:
    made = identity(tmp_path / "engine-id")
    assert made == identity(tmp_path / "engine-id") == (tmp_path / "engine-id").read_text().strip()


def test_a_file_without_content_is_none(tmp_path: Path) -> None:
    (tmp_path / "engine-id").touch()
    made = identity(tmp_path / "engine-id")
    assert len(made) == 36
    assert made == identity(tmp_path / "engine-id")
