"""What the shim tells of a traced call, and what it hands on."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway.trace.collect import TraceSpan, decode_request
from shim.driver import METHODS, Shim, ShimHost
from support.peers import peer
from support.process import wait_until

pytestmark = pytest.mark.root

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    """Takes OTLP posts on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.endpoint = f"unix://{path}"
        self.spans: list[TraceSpan] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as stream:
                    _, _, body = stream.read().partition(b"\r\n\r\n")
                    self.spans += decode_request(json.loads(body))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@pytest.fixture
def collector(base_dir: Path) -> Iterator[Collector]:
    found = Collector(base_dir / "otlp")
    yield found
    found.close()


@pytest.fixture
def recorder(base_dir: Path) -> Path:
    """A runtime that notes the context it was called in."""
    program = base_dir / "recorder"
    program.write_text(
        f'#!/bin/sh\necho "$7 $TRACEPARENT" >> {base_dir}/contexts\nexec {peer("runc")} "$@"\n'
    )
    program.chmod(0o755)
    return program


def contexts(base: Path) -> dict[str, str]:
    """The context each of the runtime's verbs was called in."""
    lines = (base / "contexts").read_text().splitlines()
    return {verb: context for verb, _, context in (line.partition(" ") for line in lines)}


def traced(shim: Shim, name: str) -> None:
    fields: dict[str, Any] = {"id": shim.bundle.id}
    request = METHODS[name].request(**fields)
    shim.receive(name, shim.client.send(name, request, metadata={"traceparent": CALLER}))


def test_spans_from_the_call_to_the_runtime(base_dir: Path, recorder: Path, collector: Collector) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    with ShimHost(base_dir, runtime=os.fspath(recorder), env=environment) as host:
        shim = host.start(host.bundle("c1", ["sh", "-c", "exit 3"]))
        shim.create()
        traced(shim, "Start")
        shim.task("Wait")
        shim.shutdown()
    wait_until(lambda: len(collector.spans) == 3, "three spans")
    spans = {span.name: span for span in collector.spans}
    call, runtime, exited = spans["task Start"], spans["runtime start"], spans["exit"]
    assert {span.trace_id for span in spans.values()} == {TRACE}
    assert (call.parent_id, call.kind, call.attributes) == ("b7ad6b7169203331", 2, {"container": "c1"})
    assert (runtime.parent_id, runtime.kind) == (call.span_id, 3)
    assert runtime.attributes["argv"].endswith("start c1")
    assert runtime.attributes["exit_code"] == "0"
    assert exited.attributes["exit_code"] == "3"
    assert exited.attributes["pid"] == (base_dir / "state/c1/init.pid").read_text()
    assert {span.service for span in spans.values()} == {"containerd-shim-cutaway-v1"}
    assert contexts(base_dir)["start"] == f"00-{TRACE}-{runtime.span_id}-01"


def test_without_a_collector_the_callers_context_is_handed_on(base_dir: Path, recorder: Path) -> None:
    with ShimHost(base_dir, runtime=os.fspath(recorder)) as host:
        shim = host.start(host.bundle("c1", ["true"]))
        shim.create()
        traced(shim, "Start")
        shim.task("Wait")
        shim.shutdown()
    found = contexts(base_dir)
    assert found["start"] == CALLER
    assert found["create"] == "", "a call outside a trace begins none"


def test_a_collector_that_does_not_answer_harms_nobody(base_dir: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"unix://{base_dir}/nobody", "TRACEPARENT": CALLER}
    with ShimHost(base_dir, env=environment) as host:
        shim = host.start(host.bundle("c1", ["sh", "-c", "exit 3"]))
        shim.create()
        assert shim.run_to_exit() == 3
        shim.shutdown()
