"""Spans as OTLP/JSON and their way to a collector.

Source: opentelemetry-proto 1.x, `opentelemetry/proto/collector/trace/v1/trace_service.proto`, JSON
mapping with hex ids; the collector's path is `/v1/traces`. The endpoint is named the way every
OpenTelemetry program names it, by OTEL_EXPORTER_OTLP_ENDPOINT: `http://host:port`, or `unix:///path`
for a socket (our engine's, by default).

Sending is one HTTP POST written by hand: a cold runtime cannot afford an HTTP library for its last
millisecond. On a Unix socket the reply is not waited for, which our engine's collector allows for.
"""

import os

from cutaway.oci import jsontext
from cutaway.trace import spans
from cutaway.trace.spans import Span, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence
    from typing import Any

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PATH = "/v1/traces"
_CONNECT_SECONDS = 0.5
_GATHER_SECONDS = 0.02
_MAX_BATCH = 512


def encode_value(value: Value) -> "dict[str, Any]":
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": value}


def _attributes(values: "Mapping[str, Value]") -> "list[dict[str, Any]]":
    return [{"key": key, "value": encode_value(value)} for key, value in values.items()]


def encode_span(span: Span) -> "dict[str, Any]":
    """One span as OTLP/JSON's `Span`."""
    encoded: dict[str, Any] = {
        "traceId": span.context.trace_id,
        "spanId": span.context.span_id,
        "parentSpanId": span.parent_id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "status": {"code": 2, "message": span.error} if span.error else {},
    }
    return encoded


def encode(batch: "Sequence[Span]") -> "dict[str, Any]":
    """An ExportTraceServiceRequest: spans grouped by the program and process that recorded them."""
    groups: dict[tuple[str, int], list[Span]] = {}
    for span in batch:
        groups.setdefault((span.service, span.pid), []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": service, "process.pid": pid})},
                "scopeSpans": [{"scope": {"name": "cutaway"}, "spans": [encode_span(s) for s in group]}],
            }
            for (service, pid), group in groups.items()
        ]
    }


def send(endpoint: str, batch: "Sequence[Span]") -> str:
    """POST a batch to the collector; returns "" or, in words, why it could not be handed over.

    The text is for a debug log: a trace that cannot be delivered is dropped.
    """
    import socket

    body = jsontext.dumps(encode(batch)).encode("utf-8", "replace")
    try:
        connection, host, path = _connect(endpoint)
        with connection:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            if connection.family != socket.AF_UNIX:
                connection.recv(1)  # others take a sender that hangs up for one that has changed its mind
    except (OSError, ValueError) as error:
        return f"{endpoint}: {error}"
    return ""


def _connect(endpoint: str) -> "tuple[Any, str, str]":
    import socket

    scheme, _, rest = endpoint.partition("://")
    if scheme == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(_CONNECT_SECONDS)
        try:
            connection.connect(rest)
        except OSError:
            connection.close()
            raise
        return connection, "localhost", PATH
    if scheme != "http":
        raise ValueError("an OTLP endpoint is unix:///path or http://host:port")
    host, _, path = rest.partition("/")
    name, _, port = host.partition(":")
    connection = socket.create_connection((name, int(port or 4318)), _CONNECT_SECONDS)
    return connection, host, (f"/{path}".rstrip("/") if path else "") + PATH


class Buffer:
    """A sink for short programs (CLI, shim, runtime): collects, and sends when told to."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.batch: list[Span] = []

    def __call__(self, span: Span) -> None:
        self.batch.append(span)

    def flush(self) -> str:
        """Send what was collected; the reason in words when it could not be delivered."""
        batch, self.batch = self.batch, []
        if not batch or not self.endpoint:
            return ""
        return send(self.endpoint, batch)


class Background:
    """A sink for daemons: a thread of its own sends batches as they come."""

    def __init__(self, endpoint: str) -> None:
        import queue
        import threading

        self.endpoint = endpoint
        self._queue: queue.SimpleQueue[Span | threading.Event] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def __call__(self, span: Span) -> None:
        self._queue.put(span)

    def flush(self, seconds: float = 1.0) -> None:
        """Wait until everything recorded so far was sent or dropped."""
        import threading

        done = threading.Event()
        self._queue.put(done)
        done.wait(seconds)

    def _run(self) -> None:
        while True:
            batch, waiting = self._drain()
            if batch:
                send(self.endpoint, batch)
            for event in waiting:
                event.set()

    def _drain(self) -> "tuple[list[Span], list[threading.Event]]":
        """Something, and whatever comes within a moment of it: one request for a burst.

        Asleep meanwhile: to be woken by each span would cost the threads that record them more than
        recording does.
        """
        import time

        items = [self._queue.get()]
        if isinstance(items[0], Span):
            time.sleep(_GATHER_SECONDS)
        while len(items) < _MAX_BATCH and not self._queue.empty():  # nobody else takes of it
            items.append(self._queue.get())
        batch = [item for item in items if isinstance(item, Span)]
        return batch, [item for item in items if not isinstance(item, Span)]


def configure_short(service: str) -> Buffer | None:
    """Set up recording for a short program from its environment; None when there is nothing to send.

    That is so when no collector is named, and inside another program that records: its sink takes the spans.
    """
    _, around = spans.recording()
    if around is not None:
        spans.configure(service, around)
        return None
    endpoint = os.environ.get(ENDPOINT, "")
    if not endpoint:
        spans.configure(service, None)
        return None
    buffer = Buffer(endpoint)
    spans.configure(service, buffer)
    return buffer
