"""The program as a whole, as far as that goes without a daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cutaway import errors
from cutaway.cli import failure, index
from cutaway.cli.command import Command
from cutaway.cli.help import command_help, group_help, program_help
from cutaway.cli.main import GLOBAL_FLAGS, main, socket_of

NOWHERE = "unix:///nonexistent/cutaway.sock"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may reach, or start, a daemon."""
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)


def every_command() -> list[tuple[str, Command]]:
    entries = {**index.COMMANDS, **index.GROUPED}
    found = []
    for name, (module, attribute, _) in entries.items():
        command = getattr(__import__(f"cutaway.cli.{module}", fromlist=[attribute]), attribute)
        assert isinstance(command, Command), name
        found.append((name, command))
    return found


def test_every_command_is_there_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in every_command():
        assert main([*name.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert text == command_help(command, f"cutaway {name}") + "\n"
        for flag in command.flags:
            assert f"--{flag.name}" in text, f"{name} --{flag.name}"
            assert flag.help, f"{name} --{flag.name} has no help text"


def test_summaries_are_the_same_everywhere() -> None:
    entries = {**index.COMMANDS, **index.GROUPED}
    for name, command in every_command():
        assert entries[name][2] == command.summary, name


def test_no_two_flags_of_a_command_share_a_name_or_a_letter() -> None:
    for name, command in every_command():
        names = [flag.name for flag in command.flags]
        letters = [flag.short for flag in command.flags if flag.short]
        assert len(names) == len(set(names)) and len(letters) == len(set(letters)), name


def test_groups_lead_to_commands() -> None:
    for group, members in index.GROUPS.items():
        assert group in index.GROUP_SUMMARIES
        for target in members.values():
            assert target in index.COMMANDS or target in index.GROUPED


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]])
def test_help_of_the_program(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == program_help("cutaway", GLOBAL_FLAGS) + "\n"


def test_help_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["container"]) == 0
    assert capsys.readouterr().out == group_help("cutaway", "container") + "\n"


def test_version_needs_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("Cutaway version ")


@pytest.mark.parametrize(
    ("words", "code", "first"),
    [
        (["nope"], 125, "cutaway: 'nope' is not a cutaway command."),
        (["--nope"], 125, "unknown flag: --nope"),
        (["run", "--nope"], 125, "unknown flag: --nope"),
        (["ps", "-z"], 125, "unknown shorthand flag: 'z' in -z"),
        (["ps", "x"], 1, '"cutaway ps" accepts no arguments.'),
        (["rename", "x"], 1, '"cutaway rename" requires exactly 2 arguments.'),
        (["run"], 1, '"cutaway run" requires at least 1 argument.'),
        (["port", "a", "b", "c"], 1, '"cutaway port" requires at least 1 and at most 2 arguments.'),
        (["-H", "tcp://a:1", "ps"], 125, "Cannot connect to the Cutaway daemon at tcp://a:1: tcp is not"),
        (["-H", "x", "ps"], 125, "unable to parse docker host `x`"),
        (["ps"], 125, f"Cannot connect to the Cutaway daemon at {NOWHERE}: there is no such socket."),
        (["run", "x"], 125, f"cutaway: Cannot connect to the Cutaway daemon at {NOWHERE}"),
        (["container", "nope"], 125, ""),
    ],
)  # fmt: skip
def test_mistakes(words: list[str], code: int, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(first)
    assert "Usage:" in printed.err or "daemon" in printed.err or "docker host" in printed.err


def test_sockets_of_hosts() -> None:
    assert socket_of("unix:///run/x.sock") == "/run/x.sock"


def test_every_error_has_an_exit_code() -> None:
    for kind in errors.all_classes():
        assert kind in failure._EXIT_CODES, f"{kind.__name__} is unmapped"
        assert failure.exit_code(kind("x")) == 1
    assert failure.exit_code(failure.NoDaemon("x")) == 125


@pytest.mark.parametrize("status", range(400, 600))
def test_every_status_is_an_error(status: int) -> None:
    error = failure.of_status(status, "words")
    assert isinstance(error, errors.CutawayError)
    assert failure.daemon_text(error) == "words"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', 127),
        ('exec: "/x": stat /x: no such file or directory: unknown', 127),
        ('exec: "/etc": permission denied: unknown', 126),
        ('exec: "/etc": is a directory: unknown', 126),
        ("network x not found", 125),
    ],
)
def test_exit_codes_of_a_refused_start(text: str, code: int) -> None:
    assert failure.start_exit_code(text) == code


# What costs more than it may on the way of every command, by what imports it for nothing.
DEAR = "re json enum socket selectors signal argparse subprocess pathlib http.client urllib.parse typing"


@pytest.mark.parametrize(
    "module", ["run", "ps", "images", "lifecycle", "execute", "logs", "inspect", "version"]
)
def test_common_commands_import_nothing_dear(module: str) -> None:
    program = f"import sys, cutaway.cli.main, cutaway.cli.client, cutaway.cli.{module}; print(*sys.modules)"
    env = {"PYTHONPATH": str(Path(errors.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert set(done.stdout.split()).isdisjoint(DEAR.split())
