"""What a foreground program has for stdin, stdout and stderr: never its caller's own."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from runc.bundles import SECONDS, Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.peers]

USER = {"uid": 1000, "gid": 1000}


@pytest.fixture(params=["run", "exec"])
def command(request: pytest.FixtureRequest, runtime: Runtime, bundle: Bundle, name: str) -> list[str]:
    """How the program is run: the words for it; its script is the bundle's."""
    if request.param == "run":
        return runtime.command("run", "--bundle", bundle.path, name)
    script = bundle.process["args"]
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    bundle.process["args"] = script
    return runtime.command("exec", name)


def call(command: list[str], bundle: Bundle, script: str) -> list[str]:
    """The command line that has a script run."""
    bundle.shell(script).write()
    return command if "run" in command else [*command, "sh", "-c", script]


@pytest.mark.parametrize("mode", [os.O_WRONLY, os.O_RDWR | os.O_APPEND])
def test_a_file_that_output_goes_to_stays_the_callers(
    bundle: Bundle, place: Path, mode: int, command: list[str]
) -> None:
    file = place / "output"
    fd = os.open(file, mode | os.O_CREAT, 0o600)
    words = call(command, bundle, "stat -Lc %u /dev/stdout; echo again > /dev/stdout; cat /dev/stdin")
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=fd, stderr=subprocess.PIPE, check=False, timeout=SECONDS
        )
    finally:
        os.close(fd)
    assert (done.returncode, done.stderr) == (0, b"")
    found = file.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    assert file.read_text() == "1000\nagain\n"


@pytest.fixture(autouse=True)
def as_a_user(bundle: Bundle) -> None:
    bundle.process["user"] = USER
    (bundle.rootfs / "dev").mkdir()


def test_more_than_a_pipe_holds_goes_through_and_back(bundle: Bundle, command: list[str]) -> None:
    sent = os.urandom(1 << 20)
    words = call(command, bundle, "cat; cat /proc/self/mounts | wc -l >&2")
    done = subprocess.run(words, input=sent, capture_output=True, check=False, timeout=SECONDS)
    assert done.stdout == sent
    assert int(done.stderr) > 3


def test_output_after_the_end_of_the_program_is_waited_for(bundle: Bundle, command: list[str]) -> None:
    """By `exec`; the end of a container's first process is the end of all of them."""
    words = call(command, bundle, "(sleep 0.3; echo late) & echo early; exit 3")
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.returncode, done.stdout) == (3, "early\n" if "run" in command else "early\nlate\n")


def test_whose_reader_has_gone_is_told_so(bundle: Bundle, command: list[str]) -> None:
    words = call(command, bundle, "trap '' PIPE; cat > /dev/null; while echo x; do :; done; echo gone >&2")
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(b"go", SECONDS)
    assert said.endswith(b"gone\n")


@pytest.mark.parametrize("closed", [(0,), (0, 1, 2)])
def test_streams_that_the_caller_has_not(bundle: Bundle, command: list[str], closed: tuple[int, ...]) -> None:
    words = call(command, bundle, "cat; echo out; echo err >&2; exit 5")
    script = 'exec "$@" ' + " ".join(f"{fd}>&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words], stdin=subprocess.DEVNULL, check=False, timeout=SECONDS,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 5
    assert done.stdout == ("" if 1 in closed else "out\n")
    assert done.stderr == ("" if 2 in closed else "err\n")
