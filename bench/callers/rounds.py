"""What both callers have in common: the conversation with the bench, and what is measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]


def serve(make_round: Callable[[], Figures]) -> None:
    """Make a round for each line, until there are no more lines."""
    answer("ready")
    for _ in sys.stdin:
        answer(make_round())


def answer(figures: Figures | str) -> None:
    print(json.dumps(figures), flush=True)


def private_bytes(smaps: str | Path) -> int:
    """Memory that a process has alone, by its smaps_rollup or a copy of it (Linux 4.14)."""
    total = 0
    for line in Path(smaps).read_text().splitlines():
        if line.startswith(("Private_Dirty:", "Private_Clean:")):
            total += int(line.split()[1]) << 10
    return total


def sleeping(bundle: Path) -> Path:
    """A bundle beside this one, with a program that stays: for `exec`."""
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["sleep", "3600"]
    return _beside(bundle, "sleeping", config)


def measured(bundle: Path) -> Path:
    """A bundle beside this one, whose hook leaves the runtime's smaps_rollup in it, late in `create`."""
    config = json.loads((bundle / "config.json").read_text())
    copy = f"cat /proc/$PPID/smaps_rollup > {bundle}-measured/smaps"
    config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", copy]}]}
    return _beside(bundle, "measured", config)


def _beside(bundle: Path, name: str, config: dict[str, Any]) -> Path:
    other = bundle.with_name(f"{bundle.name}-{name}")
    other.mkdir(exist_ok=True)
    config["root"]["path"] = str(bundle / "rootfs")
    (other / "config.json").write_text(json.dumps(config))
    return other


def true_process(bundle: Path) -> bytes:
    """The process that `exec` is to start, as OCI JSON: the container's own program once more."""
    return json.dumps(json.loads((bundle / "config.json").read_text())["process"]).encode()
