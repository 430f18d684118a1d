"""`trace`: show again the way a container's start took; and what `run --trace` prints.

The engine keeps every part's spans by container and by trace. They come in after the fact, from each
part on its own, so a fresh trace is asked for until nothing new arrives.
"""

import os
import sys
import time

from cutaway.cli import jsontext, waterfall
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.lifecycle import container_path
from cutaway.errors import Unimplemented, Unknown
from cutaway.oci.document import decode
from cutaway.trace import otlp
from cutaway.trace.collect import TraceSpan, decode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values
    from cutaway.trace.spans import Span

WAIT_SECONDS = 1.0
POLL_SECONDS = 0.05
QUIET_POLLS = 3  # so many times the same number of spans, and every part heard: that is all there is


def run_trace(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`trace CONTAINER [--json]`."""
    client, name = invocation.client, arguments[0]
    if not client.ping_server().startswith("Cutaway/"):
        raise Unimplemented("this daemon keeps no traces: it is not a Cutaway engine")
    answer = client.call("GET", f"{container_path(name)}/trace", missing=f"container: {name}")
    spans = spans_of(answer)
    print(jsontext.dumps(to_otlp(spans)) if values.on("json") else render(spans, sys.stdout.isatty()))
    return 0


def spans_of(answer: "Any") -> list[TraceSpan]:
    """The spans in the engine's answer. Raises `InvalidArgument` for one that is malformed."""
    found = answer.get("Spans") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise Unknown("the daemon's trace has no list of spans in it")
    return [decode(TraceSpan, item, "trace:") for item in found]


def collected(client: "Client", path: str, own: "Sequence[Span]") -> list[TraceSpan]:
    """All spans of a trace, once no more arrive; only our own from a daemon that keeps none."""
    mine = decode_request(otlp.encode(own))
    deadline = time.monotonic() + WAIT_SECONDS
    found: list[TraceSpan] = []
    quiet = 0
    while client.is_cutaway:
        answer = client.get_plain(path)
        count = len(found)
        found = spans_of(answer) if answer is not None else []
        quiet = quiet + 1 if len(found) == count else 0
        complete = quiet >= QUIET_POLLS and not waterfall.silent([*found, *mine])
        if complete or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    known = {span.span_id for span in found}
    return found + [span for span in mine if span.span_id not in known]


def render(spans: "Sequence[TraceSpan]", terminal: bool | None = None) -> str:
    """The waterfall, as wide as the terminal it goes to, else 110 columns."""
    width = 110
    if terminal if terminal is not None else sys.stderr.isatty():
        width = max(80, os.get_terminal_size(1 if terminal else 2).columns)
    plain = "utf" not in (sys.stderr.encoding or "").lower()
    return waterfall.render(spans, width=width, plain=plain)


def to_otlp(spans: "Sequence[TraceSpan]") -> "dict[str, Any]":
    """OTLP/JSON, as any OpenTelemetry program reads it."""
    groups: dict[tuple[str, int], list[TraceSpan]] = {}
    for span in spans:
        groups.setdefault((span.service, span.pid), []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": service, "process.pid": str(pid)})},
                "scopeSpans": [{"scope": {"name": "cutaway"}, "spans": [_span(span) for span in group]}],
            }
            for (service, pid), group in groups.items()
        ]
    }


def _span(span: TraceSpan) -> "dict[str, Any]":
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "status": {"code": 2, "message": span.error} if span.error else {},
    }


def _attributes(values: dict[str, str]) -> "list[dict[str, Any]]":
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


TRACE = Command(
    run_trace,
    "Show the way a container's start took through all parts",
    "CONTAINER",
    least=1,
    most=1,
    flags=(Flag("json", "", "bool", "Print OTLP/JSON instead of a picture"),),
)
