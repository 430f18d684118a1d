"""What a failure looks like to the runtime's caller: a message in the log, and an exit code.

A caller of the command line sees no class of error, only text and code; the classes differ in what the
text says. Anything that is no `CutawayError` is a bug or the kernel's, and is said in one line too.
"""

from cutaway.errors import CutawayError, all_classes
from cutaway.linux import libc

EXEC_FAILED = 255
FAILED = 1

# Every class ends the same way here; a test holds this table against `all_classes()`.
EXIT_CODES = dict.fromkeys(all_classes(), FAILED)

_PREFIX = {"create": "runc create failed: ", "run": "runc run failed: ", "exec": "exec failed: "}


class Failure:
    """The outcome of a command that failed."""

    __slots__ = ("exit_code", "message", "unexpected")

    def __init__(self, message: str, exit_code: int, unexpected: bool = False) -> None:
        self.message = message
        self.exit_code = exit_code
        self.unexpected = unexpected  # no caller's mistake and no refusal of the kernel: a bug


def of(command: str, error: Exception) -> Failure:
    """How a command's failure is reported."""
    prefix = _PREFIX.get(command, "")
    code = EXEC_FAILED if command == "exec" else FAILED
    if isinstance(error, CutawayError):
        return Failure(prefix + str(error), code)
    if isinstance(error, OSError):
        return Failure(prefix + libc.reason(error), code)
    return Failure(f"{prefix}internal error: {type(error).__name__}: {error}", code, unexpected=True)
