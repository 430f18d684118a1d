"""The table that is printed and kept in bench/results/latest.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.measure import Series

RESULTS = Path(__file__).parent / "results" / "latest.md"


@dataclass(frozen=True)
class Row:
    """One comparison: ours against the real part, both taken in the same run."""

    what: str
    ours: Series
    real: Series
    goal: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours.median / self.real.median


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; times are medians in ms with the 10th to 90th percentile."""
    lines = ["| what | ours, ms | real, ms | ratio | goal |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.what} | {_times(row.ours)} | {_times(row.real)} | {row.ratio:.2f} | "
        f"{'' if row.goal is None else f'≤ {row.goal:.2f}'} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _times(series: Series) -> str:
    low, high = series.spread
    return f"{series.median * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f})"


def write(rows: Sequence[Row], rounds: int, versions: str) -> Path:
    """Write the table with what is needed to judge it."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    text = (
        f"# Side by side, {when}\n\n"
        f"{rounds} rounds, turn by turn in one run; medians, in parentheses the 10th to 90th percentile.\n"
        f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}. Real parts: {versions}.\n\n{table(rows)}"
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text)
    return RESULTS
