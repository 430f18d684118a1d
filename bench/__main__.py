"""`python -m bench`: measure, print the table, write bench/results/latest.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))


def main() -> int:
    from bench import report
    from bench.calls import CALLS
    from bench.pulls import pulls
    from bench.scenarios import SCENARIOS, stacks
    from bench.tasks import task_life
    from support.leftovers import temporary_base

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often each command is timed")
    parser.add_argument(
        "--only",
        choices=[*SCENARIOS, *CALLS, "pull", "task"],
        action="append",
        help="one part; nothing is written",
    )
    options = parser.parse_args()

    rows: list[report.Row] = []
    alone = {**CALLS, "pull": pulls, "task": task_life}
    wanted = options.only or [*SCENARIOS, *alone]
    with temporary_base() as base:
        if not alone.keys() >= set(wanted):
            with stacks(base) as bench:
                for name in wanted:
                    if name in SCENARIOS:
                        rows += SCENARIOS[name](bench, options.rounds)
        for name in wanted:
            if name in alone:
                rows += alone[name](base, options.rounds)
    print(report.table(rows))
    if not options.only:
        print(f"written to {report.write(rows, options.rounds, versions()).relative_to(REPOSITORY)}")
    return 0


def versions() -> str:
    found = json.loads((REPOSITORY / ".peers" / "versions.json").read_text())
    return ", ".join(f"{name} {found[name]}" for name in ("docker.io", "containerd", "runc"))


if __name__ == "__main__":
    sys.exit(main())
