"""Timing two or more commands fairly: alternating in one run, medians and spread.

Absolute times say little on a shared machine; the ratio of two commands measured turn by turn does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WARM_UP = 3


@dataclass
class Series:
    """Times of one command in seconds, or sizes in bytes, in the order they were taken."""

    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile."""
        tenths = statistics.quantiles(self.times, n=10)
        return tenths[0], tenths[-1]


def alternate(commands: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Series]:
    """Run each command once a round, for `rounds` rounds after a warm-up; times by name."""
    series = {name: Series() for name in commands}
    for turn in range(WARM_UP + rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            command()
            taken = time.perf_counter() - start
            if turn >= WARM_UP:
                series[name].times.append(taken)
    return series
