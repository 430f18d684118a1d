"""Recording spans.

    configure("cutaway-runc", sink)          once per process; without it nothing is recorded
    with span("pivot_root", rootfs=path) as s:
        ...
        s.set(inode=4026531836)

The current span is a context variable: it follows asyncio tasks by itself; a thread started by hand
copies the context (`contextvars.copy_context()`), a forked child inherits it.
Recording costs a few microseconds and never raises: a broken collector must not break a run.
A span of a caller that did not sample, and every span without `configure`, is a no-op.
"""

import os
import time
from contextvars import ContextVar

from cutaway.trace.context import SpanContext, new_span_id, new_trace_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType

Value = str | int | float | bool

INTERNAL, SERVER, CLIENT = 1, 2, 3  # OTLP SpanKind


class Span:
    """One timed step with its values. Times are nanoseconds since the epoch."""

    __slots__ = (
        "_token",
        "attributes",
        "context",
        "end_ns",
        "error",
        "kind",
        "name",
        "parent_id",
        "pid",
        "service",
        "start_ns",
    )  # fmt: skip

    def __init__(
        self, service: str, name: str, kind: int, parent: SpanContext | None, attributes: dict[str, Value]
    ) -> None:
        trace_id = parent.trace_id if parent else new_trace_id()
        self.context = SpanContext(trace_id, new_span_id(), parent.sampled if parent else True)
        self.parent_id = parent.span_id if parent else ""
        self.service = service
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.error = ""
        self.pid = os.getpid()
        self.start_ns = time.time_ns()
        self.end_ns = 0
        self._token: Token[SpanContext | None] | None = None

    def set(self, **attributes: Value) -> None:
        """Add values learned on the way."""
        self.attributes.update(attributes)

    def __enter__(self) -> "Span":
        # One that goes nowhere must not be named as a parent to the parts below: they keep the caller's.
        self._token = _current.set(self.context) if _sink is not None else None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        if error is not None:
            self.error = str(error) or type(error).__name__
        self.finish()

    def finish(self) -> None:
        """End the span and hand it to the sink; a second call does nothing."""
        if self.end_ns:
            return
        self.end_ns = time.time_ns()
        if _sink is not None and self.context.sampled:
            _sink(self)


_current: ContextVar[SpanContext | None] = ContextVar("cutaway_span", default=None)
_sink: "Callable[[Span], None] | None" = None
_service = ""


def configure(service: str, sink: "Callable[[Span], None] | None") -> None:
    """Name this program and say where finished spans go; `None` switches recording off."""
    global _service, _sink
    _service, _sink = service, sink


def recording() -> "tuple[str, Callable[[Span], None] | None]":
    """What `configure` was last told, to be told it again."""
    return _service, _sink


def enabled() -> bool:
    return _sink is not None


def current() -> SpanContext | None:
    """The context to send over a seam, or None outside any span."""
    return _current.get()


def attach(context: SpanContext | None) -> "Token[SpanContext | None]":
    """Make a caller's context current (for the rest of this task or process)."""
    return _current.set(context)


def detach(token: "Token[SpanContext | None]") -> None:
    _current.reset(token)


def span(name: str, *, parent: SpanContext | None = None, kind: int = INTERNAL, **attributes: Value) -> Span:
    """A span under `parent`, or under the current span, or at the root of a new trace."""
    return Span(_service, name, kind, parent or _current.get(), attributes)


def record(
    name: str, start_ns: int, end_ns: int, *, parent: SpanContext | None = None, **attributes: Value
) -> Span:
    """A span whose times were taken elsewhere, e.g. by a child that could not send it itself."""
    done = Span(_service, name, INTERNAL, parent or _current.get(), attributes)
    done.start_ns = start_ns
    done.end_ns = end_ns
    if _sink is not None and done.context.sampled:
        _sink(done)
    return done
