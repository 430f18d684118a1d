"""Why a container did not start, in the words and with the exit code that Docker's clients look for.

The CLI turns a failed start into 127, 126 or 125 by words in the message (seams.md 1.5), so the
runtime's text must come through whole; the code is also what `wait` and inspect report.
"""

from __future__ import annotations

from typing import Final

from cutaway.errors import CutawayError, InvalidArgument, Unknown

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
UNKNOWN: Final = 128

# Docker's: the kernel's words for EACCES, EISDIR, ENOTDIR, and what runc says of a command it cannot find.
_DENIED: Final = "permission denied"
_DIRECTORY: Final = "is a directory"
_NOT_A_DIRECTORY: Final = "not a directory"
_INVALID_COMMAND: Final = (
    "executable file not found",
    "no such file or directory",
    "system cannot find the file specified",
    "failed to run runc create/exec call",
)
_HINT: Final = (
    "Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)


def classify(error: CutawayError) -> tuple[CutawayError, int]:
    """The error to answer with, and the container's exit code."""
    text = error.message
    lower = text.lower()
    if _DENIED in lower:
        return InvalidArgument(text), NOT_EXECUTABLE
    if _DIRECTORY in lower:
        return InvalidArgument(f"{text}: {_DENIED}"), NOT_EXECUTABLE
    if _NOT_A_DIRECTORY in lower:
        return InvalidArgument(f"{text}: {_HINT}"), NOT_FOUND
    if any(words in lower for words in _INVALID_COMMAND):
        return InvalidArgument(text), NOT_FOUND
    return (error if not isinstance(error, InvalidArgument) else Unknown(text)), UNKNOWN
