"""Runtime calls of a shim that has the runtime in memory: made in it or by a child, nobody can tell."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cutaway.trace.collect import TraceSpan
from shim.driver import Shim, ShimHost, TaskError
from shim.test_trace import CALLER, TRACE, Collector, traced
from support.leftovers import Leftovers
from support.peers import VENV_BIN, need
from support.process import children, has_ended, wait_until

pytestmark = pytest.mark.root


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_start_that_takes_long_holds_up_nobody(warm_host: ShimHost) -> None:
    before = Leftovers.snapshot(warm_host.base)
    shim = warm_host.start(warm_host.bundle("c1", ["sh", "-c", "exit 3"]))
    init = shim.create()
    os.kill(init, signal.SIGSTOP)
    wait_until(lambda: stopped(init), "the init to stop")
    starting = shim.send("Start")
    assert shim.task("State").pid == init, "the shim answers meanwhile"
    assert not shim.client.arrived(starting)
    os.kill(init, signal.SIGCONT)
    shim.receive("Start", starting)
    assert shim.task("Wait").exit_status == 3
    shim.shutdown()
    assert not Leftovers.snapshot(warm_host.base).since(before)


def test_hooks_run_in_a_child(warm_host: ShimHost) -> None:
    """A hook may take its time: poststart and poststop see the runtime as their parent, not the shim."""
    place = warm_host.base / "parents"
    script = f"readlink /proc/$PPID/exe >/dev/null && echo $PPID >> {place}"
    hook = [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
    bundle = warm_host.bundle("c1", ["true"], hooks={"poststart": hook, "poststop": hook})
    shim = warm_host.start(bundle)
    shim.create()
    assert shim.run_to_exit() == 0
    keeper = shim.pid
    shim.shutdown()
    parents = [int(line) for line in place.read_text().split()]
    assert len(parents) == 2
    assert keeper not in parents


def test_an_error_in_the_shim_is_told_as_the_runtimes(warm_host: ShimHost) -> None:
    shim = warm_host.start(warm_host.bundle("c1", ["sleep", "60"]))
    shim.create()
    state = warm_host.root / warm_host.namespace / "c1" / "state.json"
    kept = state.read_bytes()
    state.write_bytes(b"{")
    with pytest.raises(TaskError, match=r"OCI runtime start failed: .*state\.json"):
        shim.task("Start")
    state.write_bytes(kept)
    shim.task("Start")
    shim.task("Kill", signal=9)
    assert shim.task("Wait").exit_status == 137
    shim.shutdown()


def test_the_runtimes_own_spans_are_there(base_dir: Path) -> None:
    need("root", "busybox")
    collector = Collector(base_dir / "otlp")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    try:
        with ShimHost(
            base_dir, warm=True, runtime=os.fspath(VENV_BIN / "cutaway-runc"), env=environment
        ) as host:
            shim = host.start(host.bundle("c1", ["true"]))
            shim.create()
            traced(shim, "Start")
            shim.task("Wait")
            traced(shim, "Delete")
            shim.task("Shutdown")
        wait_until(lambda: by_name(collector).keys() >= {"runc start", "runc delete"}, "the runtime's spans")
    finally:
        collector.close()
    for verb in ("start", "delete"):
        call, own = by_name(collector)[f"runtime {verb}"], by_name(collector)[f"runc {verb}"]
        assert (own.service, own.trace_id, own.parent_id) == ("cutaway-runc", TRACE, call.span_id)
        assert own.attributes["exit_code"] == "0"
        assert call.service == "containerd-shim-cutaway-v1"


def by_name(collector: Collector) -> dict[str, TraceSpan]:
    return {span.name: span for span in collector.spans if span.trace_id == CALLER.split("-")[1]}


def spare_children(shim: Shim, pids: set[int]) -> set[int]:
    return set(children().get(shim.pid, [])) - pids


def test_a_child_is_ready_for_the_create_and_used_up_by_it(warm_host: ShimHost) -> None:
    """With our runtime as the shim's own default; the options name the same file."""
    shim = warm_host.start(warm_host.bundle("c1", ["sleep", "60"]))
    wait_until(lambda: bool(spare_children(shim, set())), "a child for the create")
    spare = min(spare_children(shim, set()))  # with a second, for the start, if the shim has waited for us
    init = shim.create()
    assert has_ended(spare, 5)
    wait_until(lambda: len(spare_children(shim, {init})) == 1, "a child for the start")
    (for_start,) = spare_children(shim, {init})
    shim.exec("e1", ["true"])
    wait_until(lambda: len(spare_children(shim, {init, for_start})) == 1, "a child for the exec")
    shim.task("Start", exec_id="e1")
    assert shim.task("Wait", exec_id="e1").exit_status == 0
    wait_until(lambda: spare_children(shim, {init}) == {for_start}, "its end")
    shim.task("Start")
    wait_until(lambda: not spare_children(shim, {init}), "the end of the one for the start")
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()
