"""Trace context as W3C defines it (https://www.w3.org/TR/trace-context/, version 00).

`traceparent` is `00-<32 hex trace id>-<16 hex span id>-<2 hex flags>`; only flag bit 0 (sampled) is used.
It travels as an HTTP header, gRPC and ttrpc metadata under the key `traceparent`, and as TRACEPARENT in
the environment of the runtime and of hooks.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "traceparent"
ENVIRONMENT = "TRACEPARENT"

_HEX = frozenset("0123456789abcdef")


class SpanContext:
    """One span's place in one trace. Immutable by convention."""

    __slots__ = ("sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, sampled: bool = True) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpanContext) and other.traceparent == self.traceparent

    def __hash__(self) -> int:
        return hash(self.span_id)

    def __repr__(self) -> str:
        return f"SpanContext({self.traceparent})"


def parse(traceparent: str | None) -> SpanContext | None:
    """The context in a `traceparent`, or None for an absent or malformed one.

    A malformed header must be ignored, not refused (section 3.2.2): a trace is never worth a failed run.
    """
    parts = (traceparent or "").strip().split("-")
    if len(parts) < 4 or len(parts[0]) != 2 or parts[0] == "ff" or (parts[0] == "00" and len(parts) != 4):
        return None
    _, trace_id, span_id, flags = parts[:4]
    if not (_is_id(trace_id, 32) and _is_id(span_id, 16) and len(flags) == 2 and _HEX.issuperset(flags)):
        return None
    return SpanContext(trace_id, span_id, bool(int(flags, 16) & 1))


def _is_id(text: str, length: int) -> bool:
    return len(text) == length and _HEX.issuperset(text) and text.strip("0") != ""


def from_environment(environ: "Mapping[str, str]") -> SpanContext | None:
    """The caller's context as the runtime and hooks receive it."""
    return parse(environ.get(ENVIRONMENT))


def new_trace_id() -> str:
    return os.urandom(16).hex()


def new_span_id() -> str:
    return os.urandom(8).hex()
