"""Reading OTLP/JSON: what a collector gets, as typed spans again.

Everything here is hostile input (anything that reaches the socket may post): sizes are bounded and
types are checked, and a bad span refuses the whole request with `InvalidArgument`.
"""

from cutaway.errors import InvalidArgument
from cutaway.oci.document import Document, decode, field

MAX_SPANS = 4096
MAX_TEXT = 4096


class _Value(Document):
    string_value: str | None = None
    int_value: str | int | None = None
    double_value: float | None = None
    bool_value: bool | None = None


class _Attribute(Document):
    key: str
    value: _Value


class _Resource(Document):
    attributes: list[_Attribute] = []


class _Status(Document):
    code: int | None = None
    message: str | None = None


class _Span(Document):
    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    name: str
    kind: int = 1
    start_time: str | int = field(name="startTimeUnixNano", default=0)
    end_time: str | int = field(name="endTimeUnixNano", default=0)
    attributes: list[_Attribute] = []
    status: _Status | None = None


class _Scope(Document):
    spans: list[_Span] = []


class _ResourceSpans(Document):
    resource: _Resource = _Resource()
    scope_spans: list[_Scope] = []


class _Request(Document):
    resource_spans: list[_ResourceSpans]


class TraceSpan(Document):
    """A finished span as it is stored and shown. Times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    service: str = ""
    pid: int = 0
    name: str
    kind: int = 1
    start_ns: int
    end_ns: int
    error: str = ""
    attributes: dict[str, str] = {}


def decode_request(obj: object) -> list[TraceSpan]:
    """The spans of an ExportTraceServiceRequest in OTLP/JSON. Raises `InvalidArgument`."""
    request = decode(_Request, obj)
    found: list[TraceSpan] = []
    for group in request.resource_spans:
        resource = {a.key: _text(a.value) for a in group.resource.attributes}
        for scope in group.scope_spans:
            found.extend(_span(span, resource) for span in scope.spans)
    if len(found) > MAX_SPANS:
        raise InvalidArgument(f"{len(found)} spans in one request; at most {MAX_SPANS} are taken")
    return found


def _span(span: _Span, resource: dict[str, str]) -> TraceSpan:
    pid = resource.get("process.pid", "0")
    return TraceSpan(
        trace_id=span.trace_id[:32],
        span_id=span.span_id[:16],
        parent_id=(span.parent_span_id or "")[:16],
        service=resource.get("service.name", "")[:MAX_TEXT],
        pid=int(pid) if pid.isdecimal() and len(pid) < 10 else 0,
        name=span.name[:MAX_TEXT],
        kind=span.kind,
        start_ns=_nanoseconds(span.start_time),
        end_ns=_nanoseconds(span.end_time),
        error=(span.status.message or "failed")[:MAX_TEXT] if span.status and span.status.code == 2 else "",
        attributes={a.key[:MAX_TEXT]: _text(a.value) for a in span.attributes},
    )


def _nanoseconds(value: str | int) -> int:
    if isinstance(value, int):
        return value
    if not (value.isdecimal() and len(value) <= 19):
        raise InvalidArgument(f"span time {value[:40]!r} is not a number of nanoseconds")
    return int(value)


def _text(value: _Value) -> str:
    for option in (value.string_value, value.int_value, value.double_value, value.bool_value):
        if option is not None:
            return str(option)[:MAX_TEXT]
    return ""
