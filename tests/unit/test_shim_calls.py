"""Calls of a program in memory: in the shim's own process, and by a child forked in advance."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutaway.errors import FailedPrecondition
from cutaway.linux import patience
from cutaway.runc import state
from cutaway.runc.commands.start import start, was_let_go
from cutaway.shim import inside, programs, rehearsal
from cutaway.shim.daemon import Parts
from cutaway.shim.launch import Launcher, Result
from cutaway.shim.loop import Loop
from cutaway.shim.reaper import Reaper
from cutaway.trace import otlp, spans
from cutaway.trace.context import ENVIRONMENT, SpanContext

Main = Callable[[list[str]], int]


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def launcher(loop: Loop) -> Iterator[Launcher]:
    yield Launcher(Reaper(loop))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Main], str]:
    """Put a `main` into memory under the name of a file that would say so if it were executed."""
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\necho executed\n")
    path.chmod(0o755)
    monkeypatch.setattr(programs, "_loaded", {})

    def register(main: Main) -> str:
        programs.register(str(path), main)
        return str(path)

    return register


def call(loop: Loop, launcher: Launcher, argv: list[str], *, short: bool) -> Result:
    return calls(loop, launcher, argv, 1, short=short)[0]


def calls(loop: Loop, launcher: Launcher, argv: list[str], times: int, *, short: bool) -> list[Result]:
    results: list[Result] = []

    async def run() -> None:
        for _ in range(times):
            results.append(await launcher.run(argv, short=short))
        loop.stop()

    loop.spawn(run())
    loop.run()
    return results


def say(text: str) -> None:
    os.write(1, text.encode())


def nothing() -> None:
    return


def tell_process(argv: list[str]) -> int:
    say(f"{os.getpid()} {' '.join(argv)} ")
    os.write(2, b"err")
    return 3


def test_a_short_call_is_made_here_with_its_own_streams(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = program(tell_process)
    result = call(loop, launcher, [path, "a", "b"], short=True)
    assert (result.status, result.output) == (3, f"{os.getpid()} a b err")
    os.write(1, b"own")
    assert capfd.readouterr() == ("own", "")


def test_any_other_call_is_a_childs(loop: Loop, launcher: Launcher, program: Callable[[Main], str]) -> None:
    result = call(loop, launcher, [program(tell_process)], short=False)
    assert result.status == 3
    assert not result.output.startswith(str(os.getpid()))


def test_a_broken_pipe_ends_no_program_in_memory(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str]
) -> None:
    """Its interpreter would ignore SIGPIPE; a hook that does not read its stdin must not kill the runtime."""

    def main(argv: list[str]) -> int:
        reader, writer = os.pipe()
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        return 5

    path = program(main)
    assert call(loop, launcher, [path], short=False).status == 5


def test_a_program_that_is_not_in_memory_is_executed(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tell_process)
    monkeypatch.setattr(programs, "_loaded", {})
    launcher.prepare(path)
    assert call(loop, launcher, [path], short=True).output == "executed"


def test_a_call_that_would_wait_is_made_again_by_a_child(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str]
) -> None:
    kept = os.open("/dev/null", os.O_RDONLY)

    def main(argv: list[str]) -> int:
        if not patience.allowed():
            say("first ")
            raise patience.WouldWait(kept)
        say("again")
        return 0

    result = call(loop, launcher, [program(main)], short=True)
    assert (result.status, result.output) == (0, "first again")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)
    assert patience.allowed()


@pytest.mark.parametrize("failure", [SystemExit(7), RuntimeError("oh")])
def test_what_a_program_raises_is_its_own_affair(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str], failure: BaseException
) -> None:
    def main(argv: list[str]) -> int:
        raise failure

    result = call(loop, launcher, [program(main)], short=True)
    assert result.status == (7 if isinstance(failure, SystemExit) else 1)
    assert ("RuntimeError: oh" in result.output) == isinstance(failure, RuntimeError)


def test_trace_and_environment_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[spans.Span] = []
    monkeypatch.setattr(spans, "_sink", recorded.append)
    monkeypatch.setattr(spans, "_service", "shim")
    monkeypatch.setenv(otlp.ENDPOINT, "unix:///nonexistent")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    caller = SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    seen: list[str | None] = []

    def main(argv: list[str]) -> int:
        seen.append(os.environ.get(ENVIRONMENT))
        assert otlp.configure_short("runtime") is None, "the shim sends"
        with spans.span("call"):
            os.environ[ENVIRONMENT] = "something else"
        return 0

    def waits(argv: list[str]) -> int:
        with spans.span("half a call"):
            raise patience.WouldWait

    token = spans.attach(caller)
    try:
        with pytest.raises(patience.WouldWait):
            inside.call(waits, ["x"], 1, 2)
        assert inside.call(main, ["x"], 1, 2) == 0
    finally:
        spans.detach(token)
    assert seen == [caller.traceparent]
    assert ENVIRONMENT not in os.environ
    assert spans.recording()[0] == "shim"
    assert [(span.service, span.parent_id) for span in recorded] == [("runtime", caller.span_id)]


def test_a_lock_that_another_holds_is_waited_for_by_a_child_only(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        state.Lock(str(tmp_path)).take()
        theirs.send(b"taken")
        theirs.recv(1)
        os._exit(0)
    theirs.close()
    try:
        assert ours.recv(5) == b"taken"
        with patience.none(), pytest.raises(patience.WouldWait):
            state.Lock(str(tmp_path)).take()
    finally:
        ours.close()
        os.waitpid(pid, 0)
    with patience.none(), state.Lock(str(tmp_path)):
        pass


def test_a_start_made_again_finds_that_the_program_has_run(tmp_path: Path) -> None:
    """The child that waits in the shim's place may come after the program's end."""
    record = state.Record(oci_version="1", id="c1", bundle="/", rootfs="/", created="", pid=1 << 30)
    container = state.Container(str(tmp_path), record)
    assert not was_let_go(container)
    (tmp_path / "c1").mkdir()
    os.mkfifo(container.fifo)
    assert not was_let_go(container)
    with pytest.raises(FailedPrecondition, match="that has stopped"):
        start(container)
    kept = os.open(container.fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(container.fifo, os.O_WRONLY)
    assert not was_let_go(container)
    os.write(writer, b"0")
    os.close(writer)
    start(container)
    os.close(kept)
    assert not os.path.exists(container.fifo)


def test_a_spare_child_runs_one_call(loop: Loop, launcher: Launcher, program: Callable[[Main], str]) -> None:
    path = program(tell_process)
    launcher.prepare(path)
    launcher.prepare(path)
    spare = launcher.spare_pid
    assert spare
    first, second = (
        int(result.output.split()[0]) for result in calls(loop, launcher, [path], 2, short=False)
    )
    assert first == spare
    assert second != spare


def test_a_spare_child_that_has_died_is_not_missed(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str]
) -> None:
    path = program(tell_process)
    launcher.prepare(path)
    os.kill(launcher.spare_pid, signal.SIGKILL)
    os.waitid(os.P_PID, launcher.spare_pid, os.WEXITED | os.WNOWAIT)
    assert call(loop, launcher, [path], short=False).status == 3


def test_a_spare_child_ends_with_its_socket(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tell_process)
    launcher.prepare(path)
    pidfd = os.pidfd_open(launcher.spare_pid)
    monkeypatch.setattr(programs, "_loaded", {})
    assert call(loop, launcher, [path], short=False).output == "executed"
    assert launcher.spare_pid == 0
    assert select.select([pidfd], [], [], 10)[0], "it has ended"
    os.close(pidfd)


def test_a_child_forked_ahead_is_where_its_call_is(
    loop: Loop,
    launcher: Launcher,
    program: Callable[[Main], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def main(argv: list[str]) -> int:
        names = ("KEPT", "CHANGED", "NEW", "GONE", "NOTIFY_SOCKET")
        say(f"{os.getpid()} {os.getcwd()} {[os.environ.get(name) for name in names]}")
        return 0

    path = program(main)
    for name in ("KEPT", "CHANGED", "GONE"):
        monkeypatch.setenv(name, "before")
    loaded = programs.only()
    assert loaded is not None
    launcher.fork_ahead(loaded, nothing)
    spare = launcher.spare_pid
    monkeypatch.setenv("CHANGED", "after")
    monkeypatch.setenv("NEW", "after")
    monkeypatch.setenv("NOTIFY_SOCKET", "/socket")
    monkeypatch.delenv("GONE")
    monkeypatch.chdir(tmp_path)
    launcher.prepare(path)
    result = call(loop, launcher, [path], short=False)
    where = f"{tmp_path} ['before', 'after', 'after', None, None]"
    assert result.output == f"{spare} {where}"
    first, second = calls(loop, launcher, [path], 2, short=True)
    assert first.output.endswith(where)
    assert int(first.output.split()[0]) not in {spare, os.getpid()}, "it has a child as well"
    assert second.output.startswith(f"{os.getpid()} ")


def test_a_call_that_is_not_short_leaves_the_child_of_one_that_is(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str]
) -> None:
    path = program(tell_process)
    loaded = programs.only()
    assert loaded is not None
    launcher.fork_ahead(loaded, nothing)
    launcher.prepare(path)
    calls(loop, launcher, [path], 2, short=False)
    (result,) = calls(loop, launcher, [path], 1, short=True)
    assert result.status == 3
    assert not result.output.startswith(f"{os.getpid()} ")


def test_a_child_forked_ahead_for_another_program_is_let_go(
    launcher: Launcher, program: Callable[[Main], str]
) -> None:
    program(tell_process)
    loaded = programs.only()
    assert loaded is not None
    launcher.fork_ahead(loaded, nothing)
    pidfd = os.pidfd_open(launcher.spare_pid)
    launcher.prepare("/bin/true")
    assert launcher.spare_pid == 0
    assert select.select([pidfd], [], [], 10)[0], "it has ended"
    os.close(pidfd)


def test_a_spare_child_does_not_pass_on_what_systemd_is_told(
    loop: Loop, launcher: Launcher, program: Callable[[Main], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(argv: list[str]) -> int:
        say(os.environ.get("NOTIFY_SOCKET", "none"))
        return 0

    path = program(main)
    monkeypatch.setenv("NOTIFY_SOCKET", "/socket")
    launcher.prepare(path)
    assert launcher.spare_pid
    assert call(loop, launcher, [path], short=False).output == "none"


def test_a_rehearsal_leaves_nothing_and_the_loop_goes_on(
    loop: Loop, program: Callable[[Main], str], capfd: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []

    def main(argv: list[str]) -> int:
        called.extend(argv)
        say("to nobody")
        return 1

    path = program(main)
    reaper = Reaper(loop)
    try:
        before = {*os.listdir("/proc/self/fd")}
        rehearsal.rehearse(Parts(reaper))
        rehearsal.call(main)
        assert {*os.listdir("/proc/self/fd")} <= before  # less, when what other tests have left is collected
        assert called[-2:] == ["start", "cutaway-rehearsal"]
        assert capfd.readouterr() == ("", "")
        assert call(loop, Launcher(reaper), [path], short=False).status == 1
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
