"""Calling a program that is in memory in this very process, where a fork would cost more than the call.

For calls that are short and touch no more of the process than its descriptors 1 and 2, its environment and
the settings of its trace, all of which are put back. What would have to wait refuses (`patience`).
"""

import os
import sys

from cutaway.linux import patience
from cutaway.trace import spans
from cutaway.trace.context import ENVIRONMENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.programs import Main
    from cutaway.trace.spans import Span


def call(main: "Main", argv: list[str], output: int, errors: int) -> int:
    """Enter a program's `main`, with these descriptors as its stdout and stderr; its exit code.

    Its spans go where ours go. Raises `patience.WouldWait` when the call has to be made by a child.
    """
    streams = (_Stream(1, output), _Stream(2, errors))
    service, sink = spans.recording()
    recorded: list[Span] = []
    if sink is not None:
        spans.configure(service, recorded.append)
    before = os.environ.get(ENVIRONMENT)
    context = spans.current()
    if context is not None:
        os.environ[ENVIRONMENT] = context.traceparent
    try:
        with patience.none():
            status = enter(main, argv)
    finally:
        spans.configure(service, sink)
        _restore(before)
        for stream in streams:
            stream.restore()
    if sink is not None:  # and not before: a call that has to be made again is told of once
        for span in recorded:
            sink(span)
    return status


def enter(main: "Main", argv: list[str]) -> int:
    """Run a program that is in memory as if it had been exec'd: what it raises becomes its exit code."""
    try:
        return main(argv[1:])
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except Exception:  # noqa: BLE001 - what the interpreter does for a program that was exec'd
        import traceback

        os.write(2, traceback.format_exc().encode())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _restore(context: str | None) -> None:
    if context is None:
        os.environ.pop(ENVIRONMENT, None)
    else:
        os.environ[ENVIRONMENT] = context


class _Stream:
    """A standard stream that is somebody else's for a while."""

    __slots__ = ("_number", "_own")

    def __init__(self, number: int, other: int) -> None:
        self._number = number
        self._own = os.dup(number)
        os.dup2(other, number)

    def restore(self) -> None:
        os.dup2(self._own, self._number)
        os.close(self._own)
