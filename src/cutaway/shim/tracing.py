"""Spans of the shim's own steps: only inside a caller's trace, and only if somebody collects them.

Outside a trace there is nothing to belong to, and what no collector gets must not become the
runtime's parent: the runtime is then handed the caller's context as it is.
"""

from cutaway.trace import spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from cutaway.trace.spans import Span, Value


class _NoSpan:
    """Stands for a span that nobody would see."""

    __slots__ = ()

    def set(self, **attributes: "Value") -> None:
        return

    def __enter__(self) -> "_NoSpan":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        return


_NO_SPAN = _NoSpan()


def step(name: str, *, kind: int = spans.INTERNAL, **attributes: "Value") -> "Span | _NoSpan":
    """A span below the current one, as a context manager."""
    if spans.current() is None or not spans.enabled():
        return _NO_SPAN
    span = spans.span(name, kind=kind)
    span.set(**attributes)
    return span
