"""Our daemon over every shim and runtime: the real ones and ours, started by fork and by exec."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containerd.task_rig import (
    Reader,
    Refused,
    Rig,
    assert_nothing_left,
    beside,
    fields_of,
    fifo,
    rig,
    runtime_options,
    script,
)
from cutaway.trace import otlp
from support.leftovers import temporary_base
from support.netns import Command, NetNs
from support.peers import VENV_BIN, find_peer, need, peer
from support.process import children, command_line, has_ended, wait_until
from support.stack import OurContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS = "io.containerd.cutaway.v1"


class Cold(OurContainerd):
    """cutaway-containerd that executes its shims."""

    def command(self) -> Command:
        return [*super().command(), "--no-zygote"]


@dataclass(frozen=True)
class Way:
    """A shim, how it is started, and the runtime below it."""

    daemon: type[OurContainerd]
    shim: str
    runtime: str

    def __str__(self) -> str:
        start = "-cold" if self.daemon is Cold else ""
        return f"{self.shim.split('.')[-2]}{start}-{self.runtime}"


WAYS = [
    Way(OurContainerd, "io.containerd.runc.v2", "runc"),
    Way(OurContainerd, "io.containerd.runc.v2", "cutaway-runc"),
    Way(OurContainerd, OURS, "runc"),
    Way(OurContainerd, OURS, "cutaway-runc"),
    Way(Cold, OURS, "cutaway-runc"),
]


@pytest.fixture(scope="module", params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Iterator[tuple[Rig, Way]]:
    need("containerd-shim-runc-v2", "runc", "busybox")
    way: Way = request.param
    with temporary_base() as base, NetNs() as netns, way.daemon(base, netns) as daemon:
        with rig(daemon, base, way.shim) as made:
            yield made, way


def program(way: Way) -> Path | str:
    return find_peer("runc") or "runc" if way.runtime == "runc" else VENV_BIN / way.runtime


def container(on: Rig, way: Way, id: str, *args: str) -> None:
    options = runtime_options(program(way), str(on.daemon.folder / "runtime"))
    on.container(id, *args, options=options)


def test_life_over_any_shim(way: tuple[Rig, Way]) -> None:
    on, how = way
    container(on, how, "life", "sh", "-c", "echo ready; read line; exit 7")
    given, out = fifo(on, "life-in"), fifo(on, "life-out")
    holder = os.open(given, os.O_RDWR | os.O_CLOEXEC)
    with on.events("topic~=|^/tasks/|,event.container_id==life") as events, Reader(out) as reader:
        pid = on.tasks("Create", container_id="life", stdin=str(given), stdout=str(out), stderr=str(out)).pid
        on.tasks("Start", container_id="life")
        assert reader.line() == "ready"
        on.exec("life", "e1", "sh", "-c", "exit 6")
        on.tasks("Start", container_id="life", exec_id="e1")
        assert on.tasks("Wait", container_id="life", exec_id="e1").exit_status == 6
        assert on.tasks("DeleteProcess", container_id="life", exec_id="e1").exit_status == 6
        assert [one.pid for one in on.tasks("ListPids", container_id="life").processes] == [pid]
        (metric,) = on.tasks("Metrics", filters=["id==life"]).metrics
        assert metric.data.value
        on.tasks("Pause", container_id="life")
        on.tasks("Resume", container_id="life")
        os.write(holder, b"go\n")
        os.close(holder)
        assert on.tasks("Wait", container_id="life").exit_status == 7
        assert on.drop("life") == 7
        found = events.until("/tasks/delete")
    assert [event.topic for event in found] == [
        "/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit",
        "/tasks/paused", "/tasks/resumed", "/tasks/exit", "/tasks/delete",
    ]  # fmt: skip
    assert_nothing_left(on, "life")


def test_failed_create_over_any_shim(way: tuple[Rig, Way]) -> None:
    on, how = way
    container(on, how, "failing", "nosuch")
    with pytest.raises(Refused) as caught:
        on.tasks("Create", container_id="failing")
    assert caught.value.code == "UNKNOWN"
    assert caught.value.text == (
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
        'container process: exec: "nosuch": executable file not found in $PATH: unknown'
    )
    assert_nothing_left(on, "failing")
    on.containers("Delete", id="failing")


def test_restart_over_any_shim(way: tuple[Rig, Way]) -> None:
    on, how = way
    container(on, how, "lasting", "sleep", "1000")
    on.tasks("Create", container_id="lasting")
    on.tasks("Start", container_id="lasting")
    on.daemon.crash()
    on.daemon.start()
    with on.events('topic=="/tasks/exit"') as events:
        on.tasks("Kill", container_id="lasting", signal=9)
        assert fields_of(events.next(), "id", "exit_status") == ("lasting", 137)
    assert on.drop("lasting") == 137
    assert_nothing_left(on, "lasting")


def shim_of(on: Rig, pid: int) -> int:
    """The parent of a task's process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_dead_shim_of_any_kind(way: tuple[Rig, Way]) -> None:
    on, how = way
    container(on, how, "orphaned", "sleep", "1000")
    on.tasks("Create", container_id="orphaned")
    pid = on.tasks("Start", container_id="orphaned").pid
    with on.events("topic~=|^/tasks/|") as events:
        os.kill(shim_of(on, pid), signal.SIGKILL)
        exited, deleted = events.until("/tasks/delete")
    assert exited.topic == "/tasks/exit"
    assert fields_of(exited, "id", "pid", "exit_status") == ("orphaned", pid, 137)
    assert fields_of(deleted, "container_id", "exit_status") == ("orphaned", 137)
    assert has_ended(pid, 10)
    assert_nothing_left(on, "orphaned")
    on.containers("Delete", id="orphaned")


# The zygote


@pytest.fixture(scope="module")
def warm() -> Iterator[Rig]:
    with beside(OurContainerd) as made:
        made.runtime = OURS
        yield made


def zygotes(on: Rig) -> list[int]:
    below = children().get(on.daemon.pid, [])
    return [pid for pid in below if "cutaway.shim.zygote" in command_line(pid)]


def run(on: Rig, id: str) -> int:
    on.container(id, "sh", "-c", "exit 4")
    on.tasks("Create", container_id=id)
    on.tasks("Start", container_id=id)
    on.tasks("Wait", container_id=id)
    return on.drop(id)


def test_shim_is_forked_off_the_zygote(warm: Rig) -> None:
    (zygote,) = zygotes(warm)
    pid = warm.running("forked")
    assert layout(shim_of(warm, pid)) == layout(zygote)
    warm.end("forked")
    assert zygotes(warm) == [zygote]


def layout(pid: int) -> str:
    """Where a process has its program in memory: an exec moves it, a fork does not."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()[0]


def test_dead_zygote_costs_nothing(warm: Rig) -> None:
    running = warm.running("before")
    (zygote,) = zygotes(warm)
    os.kill(zygote, signal.SIGKILL)
    assert run(warm, "after") == 4
    assert Path(f"/proc/{running}").exists()
    assert warm.end("before") == 137


def test_zygote_ends_with_its_daemon_and_shims_do_not() -> None:
    with beside(OurContainerd) as on:
        on.runtime = OURS
        pid = on.running("left")
        (zygote,) = zygotes(on)
        on.daemon.crash()
        assert has_ended(zygote, 10)
        assert Path(f"/proc/{pid}").exists()
        on.daemon.start()
        assert on.end("left") == 137


def test_request_that_died_with_the_zygote_fails_and_leaves_nothing(warm: Rig) -> None:
    (zygote,) = zygotes(warm)
    os.kill(zygote, signal.SIGSTOP)
    warm.container("lost", "true")
    creating = warm.tasks.begin("Create", container_id="lost")
    wait_until((warm.bundle("lost") / "config.json").exists, "bundle is there")
    os.kill(zygote, signal.SIGKILL)
    error = creating.exception(20)
    if error is not None:  # otherwise the request came after the death, and was executed
        assert error.details() == "failed to start shim: start failed: zygote has ended"
        assert_nothing_left(warm, "lost")
        warm.tasks("Create", container_id="lost")
    warm.drop("lost")
    assert run(warm, "next") == 4


def test_daemon_without_zygote_executes() -> None:
    with beside(Cold) as on:
        on.runtime = OURS
        assert zygotes(on) == []
        assert run(on, "cold") == 4


# Trace

TRACE = "a" * 32
TRACEPARENT = (("traceparent", f"00-{TRACE}-{'b' * 16}-01"),)


def test_trace_of_the_client_reaches_the_shim_without_a_collector() -> None:
    with beside(OurContainerd) as on:
        seen = on.daemon.folder / "seen"
        noting = f'echo "$TRACEPARENT" >> {seen}; exec {peer("containerd-shim-runc-v2")} "$@"'
        on.container("traced", "true", runtime=str(script(on, "noting-shim", noting)))
        on.tasks("Create", container_id="traced", metadata=TRACEPARENT)
        assert TRACE in seen.read_text()
        on.drop("traced")


def test_spans_of_a_creation_nest() -> None:
    collected: list[dict[str, Any]] = []
    with temporary_base() as base, collector(base / "otlp", collected) as endpoint:
        with NetNs() as netns, OurContainerd(base, netns, env={otlp.ENDPOINT: endpoint}) as daemon:
            with rig(daemon, base) as on:
                on.container("traced", "true")
                on.tasks("Create", container_id="traced", metadata=TRACEPARENT)
                on.drop("traced")
                bundle = str(on.bundle("traced"))
                wait_until(lambda: "Tasks/Create" in {span["name"] for span in collected}, "spans arrive")
    spans = {span["name"]: span for span in collected if span["traceId"] == TRACE}
    server = spans["Tasks/Create"]
    assert server["parentSpanId"] == "b" * 16
    for name in ("bundle", "shim start", "Task/Create"):
        assert spans[name]["parentSpanId"] == server["spanId"], name
    assert attribute(spans["shim start"], "address").startswith("unix:///run/containerd/s/")
    assert attribute(spans["shim start"], "bundle") == bundle
    assert attribute(spans["Task/Create"], "rpc.system") == "ttrpc"
    assert {span["traceId"] for span in collected} == {TRACE}, "a call without a trace is not recorded"


def attribute(span: dict[str, Any], key: str) -> str:
    value: str = next(pair["value"]["stringValue"] for pair in span["attributes"] if pair["key"] == key)
    return value


@contextmanager
def collector(path: Path, spans: list[dict[str, Any]]) -> Iterator[str]:
    """An OTLP collector on a Unix socket; yields its endpoint."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in document["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    class Server(socketserver.ThreadingUnixStreamServer):
        def handle_error(self, *_: object) -> None:
            """Who sends spans may leave before the answer."""

    server = Server(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"unix://{path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
