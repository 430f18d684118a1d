"""What the daemon is doing at this moment: the stacks of its threads and of its tasks, for SIGUSR1."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import traceback
from types import FrameType

log = logging.getLogger("containerd")


def dump(loop: asyncio.AbstractEventLoop) -> str:
    """All stacks as text. To be called on the loop's thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"thread {ident} [{names.get(ident, '?')}]:\n{_text(traceback.extract_stack(frame))}")
    for task in sorted(asyncio.all_tasks(loop), key=lambda one: one.get_name()):
        stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in task.get_stack())
        parts.append(f"{task.get_name()} [{_waits_for(task)}]:\n{_text(stack)}")
    return "\n".join(parts)


def dump_on_signal(loop: asyncio.AbstractEventLoop) -> None:
    """Write the stacks into the log at each SIGUSR1, as containerd does.

    A handler of Python's, not of the loop's: it is run in the midst of what keeps the loop busy as well.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        log.warning("=== BEGIN stack dump ===\n%s\n=== END stack dump ===", dump(loop))

    signal.signal(signal.SIGUSR1, handle)


def _text(stack: traceback.StackSummary) -> str:
    return "".join(stack.format())


def _waits_for(task: asyncio.Task[object]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)
