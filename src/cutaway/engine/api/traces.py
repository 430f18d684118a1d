"""The collector: spans come in as OTLP/JSON, traces go out to `cutaway trace` and to whoever asks."""

from __future__ import annotations

from aiohttp import web

from cutaway.engine.api import body
from cutaway.engine.api.containers import container_of
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.collector import MAX_BODY
from cutaway.errors import InvalidArgument, NotFound
from cutaway.oci import jsontext
from cutaway.oci.document import encode
from cutaway.trace import collect


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/traces", receive),
        web.get("/v1/traces/{trace_id:[0-9a-f]{32}}", trace),
        web.get("/containers/{id}/trace", container_trace),
    ]


async def receive(request: web.Request) -> web.Response:
    """ExportTraceServiceRequest. Raises `InvalidArgument` for what is none, or is too big."""
    if request.content_type != "application/json":
        raise InvalidArgument("only OTLP/JSON is taken: send Content-Type application/json")
    raw = await request.read()
    if len(raw) > MAX_BODY:
        raise InvalidArgument(f"{len(raw)} bytes of spans in one request; at most {MAX_BODY} are taken")
    try:
        collect.decode_request(jsontext.loads(raw))
        text = raw.decode()
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from None
    daemon_of(request).traces.add(text)
    return body.json_response({"partialSuccess": {}})


async def trace(request: web.Request) -> web.Response:
    return await _answer(request, request.match_info["trace_id"])


async def container_trace(request: web.Request) -> web.Response:
    container = container_of(request)
    if container.trace is None:
        raise NotFound(f"container {container.name} has no trace: its create was not recorded")
    return await _answer(request, container.trace.trace_id)


async def _answer(request: web.Request, trace_id: str) -> web.Response:
    spans = await daemon_of(request).traces.spans(trace_id)
    if not spans:
        raise NotFound(f"no trace {trace_id}: it was never recorded, or was dropped to make room")
    return body.json_response({"TraceID": trace_id, "Spans": encode(spans)})
