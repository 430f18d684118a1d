"""Runtimes that are already in memory.

A shim that was forked from the zygote has the code of our own runtime loaded. When the runtime
that it is told to call is the very file which that code comes from, it forks and enters the
code's `main(argv)`, where another shim would exec. Arguments, environment, stdio and exit code
are the same either way; no other runtime is affected.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Main = Callable[[list[str]], int]

_loaded: "dict[str, Main]" = {}


def register(executable: str, main: "Main") -> None:
    """Say that this is what `executable` would run."""
    _loaded[os.path.realpath(executable)] = main


def only() -> "Main | None":
    """The one program in memory, where there is one."""
    return next(iter(_loaded.values())) if len(_loaded) == 1 else None


def find(executable: str) -> "Main | None":
    """The entry of a program in memory, or None: exec it."""
    return _loaded.get(os.path.realpath(executable)) if _loaded else None
