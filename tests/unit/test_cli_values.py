"""Numbers, sizes, durations, and points in time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.cli import units, values
from cutaway.cli.times import moment
from cutaway.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1024", 1024), ("1k", 1024), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2 gb", 2 << 30)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert values.size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1..2", "1.", "k1", "1kk", "٣"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        values.size(text)


def test_swap_may_be_unlimited() -> None:
    assert values.swap("-1") == -1
    assert values.swap("1m") == 1 << 20


@pytest.mark.parametrize(("text", "billionths"), [("1", 10**9), (".5", 5 * 10**8), ("1/4", 25 * 10**7)])
def test_cpus(text: str, billionths: int) -> None:
    assert values.cpus(text) == billionths


def test_cpus_finer_than_a_billionth_are_refused() -> None:
    with pytest.raises(ValueError, match="too precise"):
        values.cpus("0.0000000001")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0", 0), ("1s", 10**9), ("1m30s", 90 * 10**9), ("500ms", 5 * 10**8), ("-1.5h", -5400 * 10**9)],
)  # fmt: skip
def test_durations(text: str, nanoseconds: int) -> None:
    assert values.duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "x", "1", "1x", "s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="time: "):
        values.duration(text)


@given(st.text(max_size=12))
def test_readers_refuse_or_understand_anything(text: str) -> None:
    for reader in values.READERS.values():
        try:
            reader(text)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", "1700000000"),
        ("1700000000.5", "1700000000.500000000"),
        ("2023-11-14T22:13:20Z", "1700000000.000000000"),
        ("2023-11-14T22:13:20.25Z", "1700000000.250000000"),
        ("2023-11-15T00:13:20+02:00", "1700000000.000000000"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    assert moment(text) == expected


def test_a_duration_is_that_long_ago() -> None:
    assert abs(float(moment("10m")) - (time.time() - 600)) < 60


def test_a_moment_that_is_none() -> None:
    with pytest.raises(InvalidArgument, match='failed to parse value as time or duration: "x"'):
        moment("x")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1_984_000, "1.98MB"), (13_300, "13.3kB")]
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert units.human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (5 * 3600, "5 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (61 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages_for_people(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


def test_long_texts_end_in_an_ellipsis() -> None:
    assert units.shorten("abcdef", 6) == "abcdef"
    assert units.shorten("abcdefg", 6) == "abcde…"
