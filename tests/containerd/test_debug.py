"""Looking into a daemon that runs: SIGUSR1, and the debug socket as the real ctr asks it."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.netns import Command, NetNs
from support.peers import need, peer
from support.process import wait_until
from support.stack import OurContainerd, UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.peers]


class Debugged(OurContainerd):
    @property
    def debug(self) -> Path:
        return self.folder / "debug.sock"

    def prepare(self) -> None:
        (self.folder / "config.toml").write_text(f'[debug]\naddress = "{self.debug}"\n')

    def command(self) -> Command:
        return [*super().command(), "--config", self.folder / "config.toml"]


@pytest.fixture(scope="module")
def daemon(session_base: Path, session_netns: NetNs) -> Iterator[Debugged]:
    need("ctr")
    with Debugged(session_base, session_netns, name="debug") as running:
        yield running


def get(daemon: Debugged, path: str) -> tuple[int, str]:
    connection = UnixConnection(daemon.debug)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def pprof(daemon: Debugged, what: str) -> tuple[int, str, str]:
    command: Command = [peer("ctr"), "pprof", "--debug-socket", daemon.debug, what]
    done = daemon.netns.run(command, check=False)
    return done.returncode, done.stdout, done.stderr


def test_ctr_shows_what_the_daemon_is_doing(daemon: Debugged) -> None:
    code, out, _ = pprof(daemon, "goroutines")
    assert code == 0
    assert "[MainThread]" in out
    assert "[metadata-write_0]" in out
    assert "RestartMonitor._run" in out


def test_profiles_of_go_are_refused_in_words(daemon: Debugged) -> None:
    code, _, error = pprof(daemon, "heap")
    assert (code, "404" in error) == (1, True), error
    assert get(daemon, "/debug/pprof/heap") == (
        404,
        "profile 'heap' is made by Go's runtime, which is not here; there are goroutine and cmdline\n",
    )
    assert get(daemon, "/debug/pprof/nonsense")[0] == 404
    assert get(daemon, "/")[0] == 404


def test_variables(daemon: Debugged) -> None:
    status, body = get(daemon, "/debug/vars")
    assert status == 200
    assert json.loads(body)["cmdline"][1:3] == ["--root", str(daemon.root)]
    assert get(daemon, "/debug/pprof/cmdline")[1].split("\0") == json.loads(body)["cmdline"]


def test_the_debug_socket_is_roots_and_its_groups(daemon: Debugged) -> None:
    assert stat.S_IMODE(daemon.debug.stat().st_mode) == 0o660


def test_a_signal_writes_stacks_into_the_log(daemon: Debugged) -> None:
    os.kill(daemon.pid, signal.SIGUSR1)
    wait_until(lambda: "=== END stack dump ===" in daemon.process.log_text(), "the stacks are in the log")
    assert "[MainThread]" in daemon.process.log_text()
    assert get(daemon, "/debug/vars")[0] == 200, "and the daemon goes on"
