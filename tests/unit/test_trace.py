"""Trace context over the seams, recording, and OTLP in both directions."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.errors import InvalidArgument
from cutaway.trace import collect, context, otlp, spans
from cutaway.trace.context import SpanContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def recorded() -> Iterator[list[spans.Span]]:
    found: list[spans.Span] = []
    spans.configure("test", found.append)
    yield found
    spans.configure("", None)


def test_traceparent_round_trip() -> None:
    here = context.parse(f"00-{TRACE}-{SPAN}-01")
    assert here == SpanContext(TRACE, SPAN)
    assert here is not None and here.traceparent == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "garbage",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-zz",
    ],
)
def test_a_malformed_traceparent_is_ignored(text: str | None) -> None:
    assert context.parse(text) is None


def test_a_future_version_is_read_as_far_as_known() -> None:
    assert context.parse(f"01-{TRACE}-{SPAN}-00-extra") == SpanContext(TRACE, SPAN, sampled=False)


def test_spans_nest_and_carry_errors(recorded: list[spans.Span]) -> None:
    with pytest.raises(ValueError, match="no"):
        with spans.span("outer", image="x") as outer:
            with spans.span("inner") as inner:
                inner.set(bytes=3)
            raise ValueError("no")
    assert [s.name for s in recorded] == ["inner", "outer"]
    assert inner.parent_id == outer.context.span_id and inner.context.trace_id == outer.context.trace_id
    assert outer.error == "no" and inner.error == "" and spans.current() is None


def test_a_caller_that_did_not_sample_is_not_recorded(recorded: list[spans.Span]) -> None:
    with spans.span("x", parent=SpanContext(TRACE, SPAN, sampled=False)):
        pass
    assert recorded == []


def test_without_a_collector_the_callers_context_goes_down_unchanged() -> None:
    caller = SpanContext(TRACE, SPAN)
    token = spans.attach(caller)
    try:
        with spans.span("nobody keeps this"):
            assert spans.current() == caller
    finally:
        spans.detach(token)


def test_what_is_sent_is_what_is_collected(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    requests: list[bytes] = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            requests.append(b"".join(iter(lambda: connection.recv(65536), b"")))

    thread = threading.Thread(target=serve)
    thread.start()
    buffer = otlp.Buffer(f"unix://{path}")
    spans.configure("part", buffer)
    with spans.span("create", kind=spans.SERVER, pid=7, ok=True, ratio=0.5, id="a"):
        pass
    spans.configure("", None)
    assert buffer.flush() == ""
    thread.join()
    server.close()
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/traces HTTP/1.1\r\n")
    (span,) = collect.decode_request(json.loads(body))
    assert (span.name, span.service, span.kind) == ("create", "part", 2)
    assert span.attributes == {"pid": "7", "ok": "True", "ratio": "0.5", "id": "a"}
    assert span.end_ns >= span.start_ns > 0


def test_a_collector_that_is_away_costs_nothing(tmp_path: Path) -> None:
    buffer = otlp.Buffer(f"unix://{tmp_path}/none")
    spans.configure("part", buffer)
    with spans.span("x"):
        pass
    spans.configure("", None)
    assert "No such file" in buffer.flush()
    assert buffer.flush() == ""


def export(*found: dict[str, object]) -> object:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(found)}]}]}


GOOD: dict[str, object] = {"traceId": TRACE, "spanId": SPAN, "name": "c"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"resourceSpans": 3},
        export({"traceId": TRACE}),
        export(GOOD | {"startTimeUnixNano": "1e9"}),
        export(*[GOOD] * 5000),
    ],
)
def test_hostile_spans_are_refused(body: object) -> None:
    with pytest.raises(InvalidArgument):
        collect.decode_request(body)
