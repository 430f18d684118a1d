"""When a collection is due: containerd's rules, told to a calculation with a clock of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutaway.containerd import config
from cutaway.containerd.gc_schedule import FIRST_INTERVAL, SHORTEST, GcSchedule, GcSettings
from cutaway.errors import InvalidArgument

INTERVAL = SHORTEST / 0.02 - SHORTEST


DEFAULTS = GcSettings()


def collected(settings: GcSettings = DEFAULTS, took: float = 0.0) -> GcSchedule:
    """A schedule that has had its first collection at 10 seconds."""
    found = GcSchedule(settings, 0.0)
    assert found.due(10.0)
    found.began()
    found.collected(10.0, took)
    return found


def test_the_first_collection_comes_soon_after_the_start() -> None:
    found = GcSchedule(GcSettings(), 5.0)
    assert (found.planned, found.due(5.05), found.due(5.1)) == (5.1, False, True)


def test_without_a_first_collection_a_deletion_is_waited_for() -> None:
    found = GcSchedule(GcSettings(startup_delay=0.0), 5.0)
    found.mutated(6.0)
    assert (found.planned, found.due(9.0)) == (None, False)
    found.deleted(9.0)
    assert found.due(9.0)


def test_nothing_to_do_is_put_off() -> None:
    found = collected()
    assert found.planned == pytest.approx(10.0 + INTERVAL)
    assert not found.due(20.0)
    assert found.planned == pytest.approx(20.0 + INTERVAL)


def test_a_deletion_is_seen_to_when_the_plan_is_due_and_not_before() -> None:
    found = collected()
    found.deleted(10.0)
    assert not found.due(10.0 + INTERVAL / 2)
    assert found.due(10.1 + INTERVAL)


def test_many_deletions_do_not_wait() -> None:
    found = collected(GcSettings(deletion_threshold=2, schedule_delay=0.01))
    found.deleted(10.0)
    assert not found.due(10.02)
    found.deleted(10.02)
    assert (found.due(10.02), found.due(10.04)) == (False, True)


def test_changes_are_worth_a_collection_from_a_hundred_on() -> None:
    found = collected()
    for _ in range(99):
        found.mutated(10.0)
    assert not found.due(20.0)
    found.mutated(20.0)
    assert found.due(30.0)


def test_a_slow_collection_is_followed_by_a_long_pause() -> None:
    assert collected(took=2.0).planned == pytest.approx(10.0 + 2.0 / 0.02 - 2.0)
    assert collected(GcSettings(pause_threshold=9.0), took=2.0).planned == pytest.approx(12.0)
    assert collected(GcSettings(pause_threshold=0.0), took=2.0).planned == pytest.approx(
        10.0 + FIRST_INTERVAL
    )


def test_a_deletion_during_a_collection_is_for_the_next_one() -> None:
    found = GcSchedule(GcSettings(), 0.0)
    found.began()
    found.deleted(0.5)
    found.collected(1.0, 0.5)
    assert found.due(100.0)


def test_a_failed_collection_is_tried_again() -> None:
    found = collected()
    found.deleted(11.0)
    found.began()
    found.failed(11.0)
    assert (found.due(11.5), found.due(13.0)) == (False, True)


def test_the_settings_are_containerds(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[plugins."io.containerd.gc.v1.scheduler"]\npause_threshold = 0.1\ndeletion_threshold = 3\n'
        'mutation_threshold = 0\nschedule_delay = "20ms"\nstartup_delay = "1m2.5s"\n'
    )
    assert config.load(["-c", str(file)]).gc == GcSettings(0.1, 3, 0, 0.02, 62.5)
    assert config.load([]).gc == GcSettings()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('schedule_delay = "soon"', "schedule_delay must be a duration such as \"100ms\", not 'soon'"),
        ("startup_delay = 3", 'startup_delay must be a duration such as "100ms", not 3'),
        ("mutation_threshold = -1", "mutation_threshold must be a number of at least 0, not -1"),
        ('deletion_threshold = "x"', "deletion_threshold must be a number of at least 0, not 'x'"),
        ("pause_threshold = true", "pause_threshold must be a number of at least 0, not True"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[plugins."io.containerd.gc.v1.scheduler"]\n{line}\n')
    with pytest.raises(InvalidArgument) as caught:
        config.load(["-c", str(file)])
    assert said in str(caught.value)
