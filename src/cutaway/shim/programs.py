"""Runtimes that are already in memory.

A shim that was forked from the zygote has the code of our own runtime loaded. When the runtime
that it is told to call is the very file which that code comes from, it forks and enters the
code's `main(argv)`, where another shim would exec. Arguments, environment, stdio and exit code
are the same either way; no other runtime is affected.

A program may have work that can be done before it is called: `expect(argv)` does it, in the process that
`main(argv)` will be called in, and says whether it has. It may also have a `rehearse()`, for a process that
waits to be told what to expect: that leaves nothing but the pages that it has written to.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Main = Callable[[list[str]], int]
    Expect = Callable[[list[str]], bool]
    Rehearse = Callable[[], None]


class Program:
    """A program in memory."""

    __slots__ = ("expect", "main", "rehearse")

    def __init__(
        self, main: "Main", expect: "Expect | None" = None, rehearse: "Rehearse | None" = None
    ) -> None:
        self.main = main
        self.expect = expect
        self.rehearse = rehearse


_loaded: dict[str, Program] = {}


def register(
    executable: str, main: "Main", expect: "Expect | None" = None, rehearse: "Rehearse | None" = None
) -> None:
    """Say that this is what `executable` would run."""
    _loaded[os.path.realpath(executable)] = Program(main, expect, rehearse)


def only() -> Program | None:
    """The one program in memory, where there is one."""
    return next(iter(_loaded.values())) if len(_loaded) == 1 else None


def find(executable: str) -> Program | None:
    """A program in memory, or None: exec it."""
    return _loaded.get(os.path.realpath(executable)) if _loaded else None
