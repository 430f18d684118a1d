"""The daemon's end of the zygote: what is run as by exec, and what a zygote's death costs."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, contextmanager
from typing import Any

import pytest

from cutaway.containerd import interpreter, zygote
from cutaway.containerd.zygote import Zygote
from cutaway.errors import Unavailable

SHIM = "/opt/bin/containerd-shim-cutaway-v1"


def with_zygote(body: Callable[[Zygote], Awaitable[Any]]) -> Any:
    async def run(forking: Zygote) -> Any:
        forking.watch()
        async with asyncio.timeout(20):
            return await body(forking)

    with closing(zygote.start()) as forking:
        return asyncio.run(run(forking))


@contextmanager
def files() -> Any:
    """Three files for a command's standard streams."""
    descriptors = [os.memfd_create("test", os.MFD_CLOEXEC) for _ in range(3)]
    try:
        yield tuple(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def ask(forking: Zygote, *arguments: str) -> tuple[int | None, str]:
    """Run the shim's program; returns its exit code and what it said."""
    with files() as streams:
        code = await forking.run([SHIM, *arguments], dict(os.environ), "/", streams)
        return code, "".join(os.pread(stream, 4096, 0).decode() for stream in streams[1:])


async def ended(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_command_runs_as_by_exec() -> None:
    async def body(forking: Zygote) -> None:
        code, said = await ask(forking, "-v")
        assert code == 0
        assert said.startswith("containerd-shim-cutaway-v1:\n  Version:")

    with_zygote(body)


def test_failure_is_an_exit_code() -> None:
    async def body(forking: Zygote) -> None:
        code, said = await ask(forking, "-namespace", "n", "nothing")
        assert code == 1
        assert "unknown action" in said

    with_zygote(body)


def test_requests_run_at_once() -> None:
    async def body(forking: Zygote) -> None:
        found = await asyncio.gather(*(ask(forking, "-v") for _ in range(20)))
        assert [code for code, _ in found] == [0] * 20

    with_zygote(body)


def test_zygote_is_executed_from_a_file_that_nobody_can_write_to() -> None:
    """CVE-2019-5736: what it forks goes into containers, and `/proc/PID/exe` there leads to this file."""

    async def body(forking: Zygote) -> None:
        file = f"/proc/{forking.pid}/exe"
        assert (await ask(forking, "-v"))[0] == 0
        assert os.readlink(file) == "/memfd:cutaway-python (deleted)"
        executed = os.open(file, os.O_RDONLY)
        try:
            assert fcntl.fcntl(executed, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            assert os.pread(executed, 4, 0) == b"\x7fELF"
        finally:
            os.close(executed)

    with_zygote(body)


@pytest.mark.parametrize("hindrance", ["copy", "start"])
def test_zygote_without_a_sealed_copy_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    def fail(_: object) -> bool:
        if hindrance == "copy":
            raise OSError(errno.EACCES, "vm.memfd_noexec")
        return False

    monkeypatch.setattr(interpreter, "_copy" if hindrance == "copy" else "_starts", fail)

    async def body(forking: Zygote) -> None:
        assert (await ask(forking, "-v"))[0] == 0
        assert os.readlink(f"/proc/{forking.pid}/exe") == os.path.realpath(sys.executable)

    with_zygote(body)


def test_killed_zygote_is_replaced() -> None:
    async def body(forking: Zygote) -> None:
        before = forking.pid
        os.kill(before, signal.SIGKILL)
        await ended(lambda: forking.pid != before)
        assert forking.usable()
        assert (await ask(forking, "-v"))[0] == 0

    with_zygote(body)


def test_request_that_dies_with_the_zygote_is_not_repeated() -> None:
    async def body(forking: Zygote) -> None:
        before = forking.pid
        os.kill(before, signal.SIGSTOP)
        asking = asyncio.create_task(ask(forking, "-v"))
        await asyncio.sleep(0)
        os.kill(before, signal.SIGKILL)
        with pytest.raises(Unavailable, match="zygote has ended"):
            await asking
        assert (await ask(forking, "-v"))[0] == 0

    with_zygote(body)


def test_zygote_that_takes_no_more_requests_is_passed_over() -> None:
    async def body(forking: Zygote) -> None:
        os.kill(forking.pid, signal.SIGSTOP)
        asking: list[asyncio.Task[tuple[int | None, str]]] = []
        try:
            while not any(task.done() for task in asking):
                asking.append(asyncio.create_task(ask(forking, "-v", "x" * 4096)))
                await asyncio.sleep(0)
                assert len(asking) < 10_000
        finally:
            os.kill(forking.pid, signal.SIGCONT)
        found = [code for code, _ in await asyncio.gather(*asking)]
        assert found.count(None) == 1, "the one that found no room was not run, so it may be executed"

    with_zygote(body)


def test_zygote_that_does_not_live_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "MODULE", "cutaway.shim.no_such_module")

    async def body(forking: Zygote) -> None:
        await ended(lambda: not forking.usable())
        assert await ask(forking, "-v") == (None, "")

    with_zygote(body)


def test_request_that_is_refused_may_be_executed() -> None:
    async def body(forking: Zygote) -> None:
        with files() as streams:
            assert await forking.run([], {}, "/", streams) is None
        assert (await ask(forking, "-v"))[0] == 0

    with_zygote(body)


def test_close_ends_the_process() -> None:
    with closing(zygote.start()) as forking:
        pid = forking.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not forking.usable()
