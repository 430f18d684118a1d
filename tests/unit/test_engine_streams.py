"""The engine's small parts without an engine: FIFOs, hub, stdin, keys, logs, pid file, database, traces."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway import errors
from cutaway.engine import pidfile
from cutaway.engine.logs import reader
from cutaway.engine.logs.writer import ContainerLog, check_options, size_limit
from cutaway.engine.state.database import MIGRATIONS, migrate, open_database
from cutaway.engine.stdio import detach, fifo
from cutaway.engine.stdio.framing import STDERR, STDOUT, frame
from cutaway.engine.stdio.hub import Hub


def run(work: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


class Listener:
    """A client that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bytes]] = []
        self.finished = False
        self.backlog = 0

    def deliver(self, stream: int, data: bytes) -> None:
        self.got.append((stream, data))

    def finish(self) -> None:
        self.finished = True

    def drop(self) -> None:
        self.finished = True


def test_frames() -> None:
    assert frame(STDERR, b"ab") == b"\x02\0\0\0\0\0\0\x02ab"


def test_a_hub_reads_to_the_end(tmp_path: Path) -> None:
    async def work() -> None:
        logged: list[tuple[int, bytes]] = []
        hub, client = Hub(lambda stream, data: logged.append((stream, data))), Listener()
        paths = {STDOUT: tmp_path / "out", STDERR: tmp_path / "err"}
        for path in paths.values():
            fifo.make(path)
        hub.attach(client)
        hub.open(paths)
        writers = [os.open(path, os.O_WRONLY) for path in paths.values()]
        os.write(writers[0], b"one")
        os.write(writers[1], b"two")
        for writer in writers:
            os.close(writer)
        await hub.drain(5)
        assert sorted(client.got) == [(STDOUT, b"one"), (STDERR, b"two")]
        assert sorted(logged) == sorted(client.got)
        assert not client.finished
        hub.finish()
        assert client.finished

    run(work())


def test_output_of_a_process_that_ended_before_we_came(tmp_path: Path) -> None:
    """As a restarted engine finds it: no writer any more, someone else keeps the FIFO alive."""

    async def work() -> None:
        path = tmp_path / "out"
        fifo.make(path)
        keeper = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY)
        os.write(writer, b"last words")
        os.close(writer)
        hub, client = Hub(), Listener()
        hub.attach(client)
        hub.open({STDOUT: path})
        await hub.drain(5)
        assert client.got == [(STDOUT, b"last words")]
        os.close(keeper)

    run(work())


def test_a_stream_that_never_ends_is_given_up(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "out"
        fifo.make(path)
        hub, client = Hub(), Listener()
        hub.attach(client)
        hub.open({STDOUT: path})
        writer = os.open(path, os.O_WRONLY)
        os.write(writer, b"so far")
        await hub.drain(0.05)
        assert client.got == [(STDOUT, b"so far")]
        os.close(writer)

    run(work())


def test_stdin_waits_for_its_process_and_for_room(tmp_path: Path) -> None:
    async def work() -> None:
        path, data = tmp_path / "in", os.urandom(300_000)
        fifo.make(path)
        writer = fifo.Writer()
        writing = asyncio.create_task(writer.write(data))
        await asyncio.sleep(0)
        writer.open(path)
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        got = b""
        while len(got) < len(data):
            try:
                got += os.read(source, 65536)
            except BlockingIOError:
                await asyncio.sleep(0)
        await writing
        assert got == data
        writer.close()
        assert os.read(source, 1) == b""
        with pytest.raises(errors.Unavailable):
            await writer.write(b"x")
        os.close(source)

    run(work())


def test_closing_stdin_frees_a_writer_that_waits(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "in"
        fifo.make(path)
        writer = fifo.Writer()
        writer.open(path)
        writing = asyncio.create_task(writer.write(b"x" * 1_000_000))
        await asyncio.sleep(0.01)
        writer.close()
        with pytest.raises(errors.Unavailable):
            await writing

    run(work())


def test_detach_keys() -> None:
    assert detach.parse("") == b"\x10\x11"
    assert detach.parse("ctrl-a,x,ctrl-],DEL") == b"\x01x\x1d\x7f"
    for bad in ("ctrl-", "ctrl-A", "xy", "ctrl-p,", "ö"):
        with pytest.raises(errors.InvalidArgument, match="Invalid detach keys"):
            detach.parse(bad)


@given(st.lists(st.binary(max_size=6)), st.binary(min_size=1, max_size=3))
def test_what_is_typed_before_the_keys_is_passed_on(pieces: list[bytes], keys: bytes) -> None:
    scanner, passed, typed = detach.DetachScanner(keys), b"", b"".join(pieces)
    for piece in pieces:
        out, detached = scanner.feed(piece)
        passed += out
        if detached:
            assert keys in typed
            return
    assert typed.startswith(passed)
    assert len(typed) - len(passed) < len(keys)  # no more is held back than may be a beginning


def entries(log: ContainerLog, **wanted: Any) -> list[bytes]:
    async def work() -> list[bytes]:
        selection = reader.Selection(frozenset({STDOUT, STDERR}), **wanted)
        return [entry.data async for entry in reader.read(log, selection, None)]

    return asyncio.run(work())


def written(path: Path, *pieces: bytes, **options: str) -> ContainerLog:
    log = ContainerLog(path / "x-json.log", {key.replace("_", "-"): value for key, value in options.items()})
    for piece in pieces:
        log.write(STDOUT, piece)
    log.finish()
    return log


def test_pieces_become_lines(tmp_path: Path) -> None:
    log = written(tmp_path, b"on", b"e\ntw", b"o\n", b"rest")
    assert entries(log) == [b"one\n", b"two\n", b"rest"]
    assert entries(log, tail=2) == [b"two\n", b"rest"]
    assert entries(log, tail=0) == []


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(min_value=0, max_value=30))
def test_the_last_lines_are_the_last_lines(tmp_path_factory: Any, pieces: list[bytes], tail: int) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = written(folder, *pieces)
    everything = entries(log)
    assert b"".join(everything) == b"".join(pieces).decode(
        "utf-8", "replace"
    ).encode() or b"\xef" in b"".join(everything)
    assert entries(log, tail=tail) == (everything[-tail:] if tail else [])


def test_a_tail_over_many_blocks_and_files(tmp_path: Path) -> None:
    lines = [f"line {number} {'x' * 90}\n".encode() for number in range(3000)]
    log = written(tmp_path, *lines, max_size="200k", max_file="3")
    kept = entries(log)
    assert kept == lines[-len(kept) :]
    assert 1 < len(log.files()) <= 3
    for tail in (1, 700, 1500, len(kept)):
        assert entries(log, tail=tail) == lines[-tail:]


def test_a_line_that_a_crash_cut_short_is_skipped(tmp_path: Path) -> None:
    log = written(tmp_path, b"whole\n")
    with log.path.open("ab") as file:
        file.write(b'{"log":"half\n')
    log.write(STDERR, b"next\n")
    log.finish()
    assert entries(log) == [b"whole\n", b"next\n"]


def test_log_options() -> None:
    assert [size_limit({"max-size": text}) for text in ("10", "2k", "3MB", "1GiB", "-1")] == [
        10, 2048, 3 << 20, 1 << 30, 0,
    ]  # fmt: skip
    for options in ({"max-size": "x"}, {"max-size": "0"}, {"max-file": "0"}, {"colour": "red"}):
        with pytest.raises(errors.InvalidArgument):
            check_options("json-file", options)
    with pytest.raises(errors.InvalidArgument, match="no log driver named 'paper'"):
        check_options("paper", {})


def test_one_daemon_a_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "d" / "pid"
    with pidfile.claimed(path):
        assert path.read_text() == str(os.getpid())
        with (
            pytest.raises(errors.FailedPrecondition, match=f"process {os.getpid()} holds"),
            pidfile.claimed(path),
        ):
            pass
    assert not path.exists()
    path.write_text("1")  # a living process, but not one that holds the file
    with pidfile.claimed(path):
        assert path.read_text() == str(os.getpid())


def test_migrations_are_applied_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    steps = ["CREATE TABLE t (a INTEGER)", "ALTER TABLE t ADD COLUMN b TEXT NOT NULL DEFAULT 'old'"]
    first = open_database(path, steps[:1])
    first.execute("INSERT INTO t VALUES (1)")
    first.close()
    for _ in range(2):
        again = open_database(path, steps)
        assert [tuple(row) for row in again.execute("SELECT * FROM t")] == [(1, "old")]
        again.close()
    with pytest.raises(errors.FailedPrecondition, match="newer version"):
        open_database(path, steps[:1])


def test_a_migration_that_fails_changes_nothing() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, ["CREATE TABLE t (a INTEGER); CREATE TABLE t (a INTEGER)"])
    connection.execute("ROLLBACK")
    assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(errors.DataLoss, match=r"e\.db is damaged"):
        open_database(path, MIGRATIONS)


def test_much_output_at_once_is_rotated_line_by_line(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "log", {"max-size": "2k", "max-file": "3"})
    log.write(STDOUT, b"".join(b"number %d\n" % number for number in range(100)))
    log.close()
    files = [tmp_path / name for name in ("log.2", "log.1", "log")]
    assert all(0 < file.stat().st_size <= 2048 for file in files)
    kept = [json.loads(line)["log"] for file in files for line in file.read_text().splitlines()]
    assert kept == [f"number {number}\n" for number in range(100 - len(kept), 100)]
