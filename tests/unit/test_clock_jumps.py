"""The system's clock is set while something lasts: what waits goes on, what has a date keeps it."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cutaway.containerd.bus import Event
from cutaway.containerd.content.locks import RefLocks
from cutaway.containerd.gc import sweep
from cutaway.containerd.metadata import blobs, leases
from cutaway.containerd.metadata.blobs import Ingest
from cutaway.containerd.metadata.database import Database
from cutaway.containerd.tasks.missed import MissedExits
from cutaway.errors import Unavailable
from cutaway.pb import task_events_pb2

HOUR = 3600


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    return Jump(monkeypatch)


class Jump:
    """Sets the clock, as a time server or an administrator does; the monotonic one knows nothing of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._real = (time.time, time.time_ns)

    def by(self, seconds: int) -> None:
        real, real_ns = self._real
        self._patch.setattr(time, "time", lambda: real() + seconds)
        self._patch.setattr(time, "time_ns", lambda: real_ns() + seconds * 10**9)


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_ref_is_locked_as_long_as_it_is(jump: Jump, seconds: int) -> None:
    async def second_writer() -> str:
        locks = RefLocks()
        async with locks.hold("n", "r"):
            jump.by(seconds)
            with pytest.raises(Unavailable) as caught:
                async with locks.hold("n", "r"):
                    pass
        return str(caught.value)

    said = asyncio.run(second_writer())
    found = re.fullmatch(r"ref r locked for (\d\.\d{3})s \(since .*\): unavailable", said)
    assert found, said


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_exits_are_kept_for_a_moment(jump: Jump, seconds: int) -> None:
    missed = MissedExits()
    missed.adopt("n", "c")
    exited = task_events_pb2.TaskExit(container_id="c", id="c", exit_status=3).SerializeToString()
    event = Event(time.time_ns(), "n", "/tasks/exit", "containerd.events.TaskExit", exited)
    jump.by(seconds)
    missed.note(event)
    assert missed.recent() == [event]


@pytest.mark.parametrize("seconds", [-100 * HOUR, -HOUR, HOUR])
def test_a_pull_is_not_collected(jump: Jump, tmp_path: Path, seconds: int) -> None:
    """Under a lease for a day, as engines take one; and an ingest without one."""
    db = Database(tmp_path / "metadata.db")
    try:
        expiry = datetime.fromtimestamp(time.time() + 24 * HOUR, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        db.write_now(leases.create, "n", "pull", {"containerd.io/gc.expire": expiry})
        db.write_now(blobs.add, "n", "sha256:" + "0" * 64, 1, {})
        db.write_now(leases.hold, "n", "pull", leases.CONTENT, "sha256:" + "0" * 64)
        started = time.time_ns()
        db.write_now(blobs.begin, Ingest("n", "r", "folder", 1, "", started, started), "")
        jump.by(seconds)
        found = db.write_now(sweep, lambda namespace, ref: False)
        assert (found.digests, found.folders, found.leases) == (set(), [], [])
    finally:
        db.close()


def test_what_is_being_written_is_never_collected(jump: Jump, tmp_path: Path) -> None:
    db = Database(tmp_path / "metadata.db")
    try:
        started = time.time_ns()
        for ref in ("written", "forgotten"):
            db.write_now(blobs.begin, Ingest("n", ref, ref, 1, "", started, started), "")
        jump.by(1000 * HOUR)
        found = db.write_now(sweep, lambda namespace, ref: ref == "written")
        assert found.folders == ["forgotten"]
    finally:
        db.close()
