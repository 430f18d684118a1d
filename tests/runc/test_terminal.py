"""In the foreground on a terminal, as a person has it: keys, sizes, signals, and what is left afterwards."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from runc.person import PATIENCE, Person

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(params=["run", "exec"])
def start(
    request: pytest.FixtureRequest, runtime: Runtime, bundle: Bundle, name: str
) -> Iterator[Callable[[str], list[str]]]:
    """The command that has a shell run a script on a terminal: a new container's, or one's that runs."""

    def command(script: str) -> list[str]:
        if request.param == "run":
            bundle.process["terminal"] = True
            return runtime.command("run", "--bundle", bundle.shell(script), name)
        bundle.process["args"] = ["sleep", "1000"]
        assert runtime.detached("run", "--detach", "--bundle", bundle, name).code == 0
        return runtime.command("exec", "--tty", name, "sh", "-c", script)

    yield command
    runtime("delete", "--force", name)


Start = Callable[[str], list[str]]


def test_keys_go_in_and_output_comes_out(start: Start) -> None:
    with Person(start("tty; read line; echo got $line; exit 7")) as person:
        person.see("/dev/pts/0")
        person.type("hello\r")
        assert person.leave() == 7
        person.see("got hello\r\n")


def test_the_terminal_is_raw_meanwhile_and_as_before_afterwards(start: Start) -> None:
    with Person(start("echo ready; read line; exit 3")) as person:
        person.see("ready")
        assert person.settings() != person.before
        person.type("\r")
        assert person.leave() == 3
        assert person.settings() == person.before


def test_it_has_our_size_and_follows_it(start: Start) -> None:
    # The reference sets the size when the program runs already.
    loop = "while true; do sleep 0.05; done"
    sized = "until stty size 2>/dev/null | grep .; do sleep 0.05; done"
    script = f"{sized}; trap 'stty size; exit 5' WINCH; echo ready; {loop}"
    with Person(start(script), size=(33, 77)) as person:
        person.see("ready")
        assert "33 77" in person.seen
        person.resize(44, 111)
        person.see("44 111")
        assert person.leave() == 5


def test_control_c_interrupts_the_program_inside(start: Start) -> None:
    with Person(
        start("trap 'echo caught; exit 9' INT; echo ready; while true; do sleep 0.05; done")
    ) as person:
        person.see("ready")
        person.type("\x03")
        assert person.leave() == 9
        person.see("caught")


def test_a_signal_to_the_runtime_reaches_the_program(start: Start) -> None:
    with Person(start("trap 'exit 6' TERM; echo ready; while true; do sleep 0.05; done")) as person:
        person.see("ready")
        person.program.send_signal(signal.SIGTERM)
        assert person.leave() == 6
        assert person.settings() == person.before


def test_output_to_a_file_has_plain_line_ends(start: Start, runtime: Runtime, place: Path) -> None:
    if not runtime.ours:
        pytest.skip("the reference sets this when the program runs already")
    with (
        (place / "out").open("wb") as file,
        Person(start("echo one; echo two"), stdout=file.fileno()) as person,
    ):
        assert person.leave() == 0
    assert (place / "out").read_bytes() == b"one\ntwo\n"


def test_much_output_arrives_whole(start: Start, place: Path) -> None:
    script = "i=0; while test $i -lt 5000; do echo line number $i; i=$((i+1)); done"
    with (place / "out").open("wb") as file, Person(start(script), stdout=file.fileno()) as person:
        assert person.leave() == 0
    assert (place / "out").read_text().splitlines() == [f"line number {i}" for i in range(5000)]


def test_a_terminal_needs_one_of_ours(start: Start) -> None:
    done = subprocess.run(
        start("true"),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,
    )
    assert done.returncode in (1, 255)
    assert "open /dev/tty: no such device or address" in done.stderr


def test_a_detached_terminal_needs_a_console_socket(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["terminal"] = True
    message = "cannot allocate tty if runc will detach without setting console socket"
    for words in (["create"], ["run", "--detach"]):
        result = runtime(*words, "--bundle", bundle, name)
        assert (result.code, result.error) == (1, f"runc {words[0]} failed: {message}")
    assert runtime("state", name).error == "container does not exist"
