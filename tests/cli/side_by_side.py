"""The same command line given to docker and to cutaway, and what each of them made of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.peers import VENV_BIN
from support.stack import Engine

CUTAWAY = VENV_BIN / "cutaway"

# What differs from one call to the next, in the order it is to be replaced.
_VARYING = (
    (re.compile(r"[0-9a-f]{64}"), "ID64"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "ID12"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"), "TIME"),
    (re.compile(r"(Less than a second|1 second|\d+ seconds)( ago)?"), "MOMENT"),
    (re.compile(r"MOMENT +"), "MOMENT "),
    (re.compile(r"(CREATED|STATUS) +"), r"\1 "),
)
# 20.10's docker notes on stderr that it gave up a wait; later ones do not.
_NOISE = re.compile(r"time=.* msg=\"error waiting for container: context canceled\"\n")
# Our refusals of flags have a usage line more.
_USAGE = re.compile(r"(See '[^']* --help'\.\n)Usage: .*\n(\t.*\n)?")


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a command."""

    code: int
    out: str
    err: str


class SideBySide:
    """Runs a command by both programs on one engine; `before` is done before each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, program: Path | None, *words: str, input: str | None = None) -> Outcome:
        done = self.engine.docker(*words, program=program, check=False, input=input)
        return Outcome(done.returncode, plain(done.stdout), plain(done.stderr))

    def cutaway(self, *words: str, input: str | None = None) -> Outcome:
        return self.run(CUTAWAY, *words, input=input)

    def docker(self, *words: str, input: str | None = None) -> Outcome:
        return self.run(None, *words, input=input)

    def same(
        self, *words: str, before: Callable[[], object] | None = None, input: str | None = None
    ) -> Outcome:
        """Assert that both do the same; returns what that is."""
        outcomes = []
        for program in (None, CUTAWAY):
            if before is not None:
                before()
            outcomes.append(self.run(program, *words, input=input))
        theirs, ours = outcomes
        assert ours == theirs, f"{' '.join(words)}\ndocker:  {theirs}\ncutaway: {ours}"
        return ours

    def remove(self, *names: str) -> None:
        """Remove containers, whether they are there or not."""
        self.engine.docker("rm", "-f", "-v", *names, check=False)


def plain(text: str) -> str:
    """Output without what differs from one call to the next, and without the program's name."""
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    text = _USAGE.sub(r"\1", _NOISE.sub("", text))
    text = re.sub(r"^cutaway: ", "docker: ", text, flags=re.MULTILINE)
    return re.sub(r"(['\"]|Usage:  |\t)cutaway ", r"\1docker ", text)
