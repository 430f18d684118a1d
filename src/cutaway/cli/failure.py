"""Errors as this seam shows them: the daemon's HTTP status becomes an error class, a class an exit code.

    HTTP status  ──of_status()──▶  errors.*  ──exit_code()──▶  what the shell sees

Docker's rules: 125 when docker itself failed before a container ran, 1 for commands on objects.
"""

from cutaway import errors

PREFIX = "Error response from daemon: "


class UsageError(errors.InvalidArgument):
    """The command line is not understood; `hint` says whose help to read ("run" command path)."""

    def __init__(self, message: str, exit_code: int = 125, usage: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.usage = usage


class NoDaemon(errors.Unavailable):
    """Nobody answers on the socket."""


class ExitWith(Exception):
    """End the program with this exit code; whatever is to be said has been said."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


_BY_STATUS: dict[int, type[errors.CutawayError]] = {
    400: errors.InvalidArgument,
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    408: errors.DeadlineExceeded,
    409: errors.FailedPrecondition,
    416: errors.OutOfRange,
    429: errors.ResourceExhausted,
    499: errors.Cancelled,
    501: errors.Unimplemented,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
    507: errors.ResourceExhausted,
}

# What every class ends the program with, unless the command has a rule of its own (run: 125, 126, 127).
_EXIT_CODES: dict[type[errors.CutawayError], int] = {
    errors.InvalidArgument: 1,
    errors.NotFound: 1,
    errors.AlreadyExists: 1,
    errors.FailedPrecondition: 1,
    errors.PermissionDenied: 1,
    errors.Unauthenticated: 1,
    errors.ResourceExhausted: 1,
    errors.Unavailable: 1,
    errors.DeadlineExceeded: 1,
    errors.Cancelled: 1,
    errors.Aborted: 1,
    errors.OutOfRange: 1,
    errors.Unimplemented: 1,
    errors.DataLoss: 1,
    errors.Unknown: 1,
}


def of_status(status: int, message: str) -> errors.CutawayError:
    """The error a daemon's answer stands for, worded as docker words it."""
    return _BY_STATUS.get(status, errors.Unknown)(PREFIX + message)


def daemon_text(error: errors.CutawayError) -> str:
    """The daemon's own words, without the prefix."""
    return error.message.removeprefix(PREFIX)


def exit_code(error: errors.CutawayError) -> int:
    """The exit code for an error that no command has caught."""
    if isinstance(error, UsageError):
        return error.exit_code
    if isinstance(error, NoDaemon):
        return 125
    for kind in type(error).__mro__:
        if kind in _EXIT_CODES:
            return _EXIT_CODES[kind]
    return 1


def start_exit_code(text: str) -> int:
    """`run`'s exit code when the start was refused: 127 not found, 126 not executable, else 125.

    The runtime's words, passed on through every layer, are all there is to tell them apart.
    """
    if "executable file not found" in text or "no such file or directory" in text:
        return 127
    if "permission denied" in text or "is a directory" in text:
        return 126
    return 125
