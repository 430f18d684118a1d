"""Spans: what a collector is told of a run."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cutaway.trace.collect import TraceSpan, decode_request
from runc.bundles import Bundle, Runtime

pytestmark = pytest.mark.root

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector(path: Path) -> Iterator[tuple[dict[str, str], list[TraceSpan]]]:
    """An OTLP endpoint: the environment that names it, and the spans of its one request."""
    spans: list[TraceSpan] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as file:
                spans.extend(decode_request(json.loads(file.read().partition(b"\r\n\r\n")[2])))

        thread = threading.Thread(target=serve)
        thread.start()
        yield (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": f"unix://{path}", "TRACEPARENT": f"00-{TRACE}-{PARENT}-01"},
            spans,
        )
        thread.join(20)


def test_a_run_is_told_with_its_values(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    bundle.config["root"]["readonly"] = False
    bundle.shell("readlink /proc/self/ns/net")
    with collector(place / "otlp") as (env, spans):
        result = ours("run", "--bundle", bundle, name, env=env)
    (server,) = [span for span in spans if span.name == "runc run"]
    assert (server.trace_id, server.parent_id, server.kind) == (TRACE, PARENT, 2)
    assert server.attributes["id"] == name
    assert server.attributes["bundle"] == os.fspath(bundle.path)
    assert server.attributes["exit_code"] == "0"

    children = [span for span in spans if span is not server]
    assert {span.parent_id for span in children} == {server.span_id}
    by_name = {span.name: span for span in children}
    assert set(by_name) >= {
        "cgroup",
        "namespaces",
        "rootfs",
        "devices",
        "masks",
        "pivot_root",
        "seccomp",
        "state",
    }
    values = {key: value for span in children for key, value in span.attributes.items()}
    assert f"net:[{values['ns.network']}]" == result.out.strip()
    assert values["rootfs"] == os.fspath(bundle.rootfs)
    assert f"/{name}" in values["paths"]
    assert int(values["pid"]) > 1
    assert int(values["instructions"]) > 0
    for span in spans:
        assert span.start_ns <= span.end_ns


def test_a_failure_is_told_too(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    bundle.process["args"] = ["nope"]
    with collector(place / "otlp") as (env, spans):
        assert ours("run", "--bundle", bundle, name, env=env).code == 1
    (server,) = [span for span in spans if span.name == "runc run"]
    assert "executable file not found" in server.error
    assert server.attributes["exit_code"] == "1"


def test_hooks_continue_the_trace(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    script = f"echo $TRACEPARENT > {place}/seen"
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    with collector(place / "otlp") as (env, spans):
        assert ours("run", "--bundle", bundle, name, env=env).code == 0
    (server,) = [span for span in spans if span.name == "runc run"]
    assert (place / "seen").read_text().strip() == f"00-{TRACE}-{server.span_id}-01"


def test_the_program_does_not_see_the_runtimes_environment(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    bundle.process["args"] = ["env"]
    with collector(place / "otlp") as (env, _):
        assert "TRACEPARENT" not in ours("run", "--bundle", bundle, name, env=env).out


def test_a_collector_that_is_not_there_changes_nothing(ours: Runtime, bundle: Bundle, name: str) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///no/such/socket"}
    result = ours("run", "--bundle", bundle, name, env=env)
    assert (result.code, result.out, result.err) == (0, "", "")
