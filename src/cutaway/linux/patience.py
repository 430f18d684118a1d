"""Whether a call may wait for others.

A process that serves many callers from one thread may make a short call itself, in place of having a child
make it, as long as nothing in it waits for what somebody else does. It says so with `none()`; code that is
about to wait says `needed()` first, at a point where nothing has been done yet or where doing it all again
does no harm; and the caller that gets `WouldWait` has a child make the call after all.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

SHORT_MS = 20  # what may be waited for something that is on its way

_allowed = True


class WouldWait(BaseException):
    """Not an Exception: it is no failure of the call, and nobody but who forbade waiting is to catch it.

    `kept` are descriptors that must stay open until the call has been made elsewhere.
    """

    def __init__(self, *kept: int) -> None:
        self.kept = kept

    def close(self) -> None:
        """Let go of them."""
        for fd in self.kept:
            os.close(fd)
        self.kept = ()


class none:
    """A stretch of code in which nothing may wait."""

    def __enter__(self) -> None:
        global _allowed
        _allowed = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        global _allowed
        _allowed = True


def allowed() -> bool:
    """Whether this call may wait."""
    return _allowed


def needed() -> None:
    """From here on it may take long. Raises `WouldWait` where that must not be."""
    if not _allowed:
        raise WouldWait
