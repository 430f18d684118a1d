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


MS, MB = (1e3, "ms"), (1e-6, "MB")


@dataclass(frozen=True)
class Row:
    """One comparison: ours against the real part, both taken in the same run; or one measure of ours alone.

    `goal` is the largest ratio, or for ours alone the largest value in its unit.
    """

    what: str
    ours: Series
    real: Series | None
    goal: float | None = None
    unit: tuple[float, str] = MS

    def cells(self) -> tuple[str, str, str, str, str]:
        goal = "" if self.goal is None else f"≤ {self.goal:.2f}"
        if self.real is None:
            return self.what, self._values(self.ours), "", "", f"{goal} {self.unit[1]}" if goal else ""
        ratio = f"{self.ours.median / self.real.median:.2f}"
        return self.what, self._values(self.ours), self._values(self.real), ratio, goal

    def _values(self, series: Series) -> str:
        scale, name = self.unit
        low, high = series.spread
        return f"{series.median * scale:.1f} {name} ({low * scale:.1f} to {high * scale:.1f})"


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; medians with the 10th to 90th percentile."""
    lines = ["| what | ours | real | ratio | goal |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row.cells())} |".replace("|  |", "| |") for row in rows]
    return "\n".join(lines) + "\n"


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
