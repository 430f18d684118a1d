"""The collector: what comes in, what is kept, what is given back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from cutaway.engine.collector import Collector
from cutaway.engine.traces import store


def run(work: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def export(trace: str, *numbers: int) -> str:
    """Spans as they come in."""
    found = [
        {"traceId": trace, "spanId": f"{n:016x}", "name": f"s{n}", "startTimeUnixNano": n} for n in numbers
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": found}]}]})


def test_traces_are_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(export("a" * 32, 1))
    monkeypatch.setattr(store, "MAX_SPANS_PER_TRACE", 4)
    monkeypatch.setattr(store, "MAX_BYTES", 10 * one)
    monkeypatch.setattr(store, "_PRUNE_EVERY", 1)

    async def names(traces: store.TraceStore, trace: str) -> list[str]:
        return [span.name for span in await traces.spans(trace * 32)]

    async def work() -> None:
        traces = store.TraceStore(tmp_path / "t.db")
        for number in range(9):
            traces.add(export("a" * 32, number))
        assert await names(traces, "a") == ["s5", "s6", "s7", "s8"]
        for number in range(8):
            traces.add(export("b" * 32, number))
        assert await names(traces, "b") == ["s4", "s5", "s6", "s7"]
        assert await names(traces, "a") == ["s7", "s8"]
        traces.close()
        again = store.TraceStore(tmp_path / "t.db")
        assert await names(again, "b") == ["s4", "s5", "s6", "s7"]
        again.close()

    run(work())


def test_an_export_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    async def work() -> None:
        traces = store.TraceStore(tmp_path / "t.db")
        trace = "a" * 32
        for body in (f'{{"traceId":"{trace}"', f'[{{"traceId":"{trace}"}}]', export(trace, 1), "nothing"):
            traces.add(body)
        assert [span.name for span in await traces.spans(trace)] == ["s1"]
        traces.close()

    run(work())


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", ["{}"]),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}", []),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n{}", []),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 1\r\n\r\n\xff", []),
        (b"POST /v1/traces HTTP/1.1\r\n\r\n{}", []),
        (b"GET /v1/traces HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", []),
        (b"A" * 100_000, []),
        (b"", []),
    ],
)
def test_the_collector_takes_whole_requests_from_senders_that_leave(
    sent: bytes, kept: list[str], tmp_path: Path
) -> None:
    found: list[str] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    collecting = Collector(listener, found.append)
    for data in (sent, b'POST /v1/traces HTTP/1.1\r\nContent-Length: 6\r\n\r\n"last"'):
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(str(tmp_path / "s"))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sender.sendall(data)
            if data is not sent:
                sender.recv(1)  # served in turn: what came before is through as well
    collecting.close()
    listener.close()
    assert found == [*kept, '"last"']


def test_a_span_that_is_sent_twice_is_kept_once(tmp_path: Path) -> None:
    async def work() -> None:
        traces = store.TraceStore(tmp_path / "t.db")
        for _ in range(2):
            traces.add(export("a" * 32, 1))
        assert json.dumps([span.name for span in await traces.spans("a" * 32)]) == '["s1"]'
        traces.close()

    run(work())
