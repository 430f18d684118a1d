"""`--version`, in runc's five lines: dockerd takes the last word of the first and what follows `commit:`."""

import sys

from cutaway import __version__

SPEC = "1.2.0"


def text() -> str:
    """The lines of `--version`."""
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"cutaway-runc version {__version__}\ncommit: {__version__}\nspec: {SPEC}\n"
        f"python: {python}\nlibseccomp: {_libseccomp()}\n"
    )


def _libseccomp() -> str:
    from cutaway.errors import CutawayError

    try:
        from cutaway.linux import seccomp_compile

        return str(seccomp_compile.version())
    except CutawayError:
        return "none"
