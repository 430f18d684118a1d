"""The command line's grammar, the log's lines, and how a failure looks to the caller."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cutaway.errors import CutawayError, InvalidArgument, all_classes
from cutaway.runc import failures, logs, options, usage
from cutaway.runc.commands import COMMANDS, GLOBAL, kill
from cutaway.runc.options import DURATION, FLAG, MANY, NUMBER, TEXT, Option, UsageError, parse

TABLE = [
    Option("force f", FLAG, ""),
    Option("bundle b", TEXT, ""),
    Option("preserve-fds", NUMBER, ""),
    Option("env e", MANY, ""),
]


@pytest.mark.parametrize(
    "words", [["--bundle", "x"], ["-bundle", "x"], ["--bundle=x"], ["-b", "x"], ["-b=x"]]
)
def test_a_value_is_given_in_any_of_these_ways(words: list[str]) -> None:
    assert parse(TABLE, words).text("bundle") == "x"


def test_each_kind_has_its_type() -> None:
    parsed = parse(TABLE, ["-f", "--preserve-fds", "3", "-e", "A=1", "-e", "B=2", "name"])
    assert parsed.flag("force") is True
    assert parsed.number("preserve-fds") == 3
    assert parsed.many("env") == ["A=1", "B=2"]
    assert parsed.arguments == ["name"]
    assert "bundle" not in parsed
    assert (parsed.text("bundle"), parsed.text("bundle", "else")) == ("", "else")


def test_options_may_follow_arguments_unless_they_are_anothers() -> None:
    assert parse(TABLE, ["name", "--force"]).flag("force")
    parsed = parse(TABLE, ["name", "ls", "--force"], stop_at_argument=True)
    assert parsed.arguments == ["name", "ls", "--force"]
    assert parse(TABLE, ["--", "--force"]).arguments == ["--force"]
    assert parse(TABLE, ["-"]).arguments == ["-"]


def test_a_flag_can_be_switched_off() -> None:
    parsed = parse(TABLE, ["--force=false"])
    assert "force" in parsed
    assert not parsed.flag("force")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bad"], "flag provided but not defined: -bad"),
        (["--bundle"], "flag needs an argument: -bundle"),
        (["--preserve-fds", "x"], 'invalid value "x" for flag -preserve-fds: parse error'),
        (["--force=maybe"], 'invalid boolean value "maybe" for -force: parse error'),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(TABLE, words)
    assert str(caught.value) == message


def test_every_command_has_its_module_and_its_help() -> None:
    folder = Path(options.__file__).parent / "commands"
    assert {path.stem for path in folder.glob("[a-z]*.py")} == set(COMMANDS)
    for name, command in COMMANDS.items():
        text = usage.of_command(name)
        assert command.summary in text
        assert all(f"--{option.names[0]}" in text for option in command.options)
    assert all(f"--{option.names[0]}" in usage.general() for option in GLOBAL)


def test_every_class_of_errors_has_an_outcome() -> None:
    assert set(failures.EXIT_CODES) == set(all_classes())
    for cls in all_classes():
        assert failures.of("create", cls("why")).message == "runc create failed: why"
        assert failures.of("exec", cls("why")).exit_code == 255
        assert failures.of("state", cls("why")).exit_code == failures.EXIT_CODES[cls]


def test_other_failures_are_one_line_too() -> None:
    missing = FileNotFoundError(2, "No such file or directory", "/x")
    assert failures.of("run", missing).message == "runc run failed: /x: no such file or directory"
    assert failures.of("run", ValueError("odd")).message == "runc run failed: internal error: ValueError: odd"


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain-1.0/x", "plain-1.0/x"),
        ("two words", '"two words"'),
        ('a"b\n', '"a\\"b\\n"'),
        ("", '""'),
        ("é", '"é"'),
    ],
)
def test_quoting_in_text_lines(text: str, quoted: str) -> None:
    assert logs.quote(text) == quoted


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_lines(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    log = logs.Log()
    log.configure(os.fspath(tmp_path / "log"), form, debug=False)
    log.debug("not shown")
    log.warning("first")
    log.error('second "one"')
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2
    if form == "json":
        assert [json.loads(line)["msg"] for line in lines] == ["first", 'second "one"']
    else:
        assert lines[1].endswith('level=error msg="second \\"one\\""')
    assert capfd.readouterr().err == 'second "one"\n'


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid log-format: xml"):
        logs.Log().configure("", "xml", debug=False)


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("term", 15), ("SIGRTMIN+3", 37), ("SYS", 31)]
)
def test_signals(text: str, number: int) -> None:
    assert kill.parse_signal(text) == number


@pytest.mark.parametrize("text", ["FOO", "", "-9", "RTMIN+99", "9x"])
def test_signals_that_are_none(text: str) -> None:
    with pytest.raises(CutawayError, match="unknown signal"):
        kill.parse_signal(text)


def test_two_names_of_one_option_are_not_mixed() -> None:
    with pytest.raises(UsageError, match="Cannot use two forms of the same flag: e env"):
        parse(TABLE, ["-e", "A=1", "--env", "B=2"])


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("5s", 5000),
        ("1m30.5s", 90500),
        ("0", 0),
        ("-1h", -3600000),
        ("+1.5s", 1500),
        ("100us", 0),
        ("2ms", 2),
    ],
)
def test_durations_are_gos(text: str, milliseconds: int) -> None:
    table = [Option("interval", DURATION, "")]
    assert parse(table, [f"--interval={text}"]).number("interval") == milliseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1m1", "1x", "1.2.3s", "-", "1s "])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="parse error"):
        parse([Option("interval", DURATION, "")], [f"--interval={text}"])


def test_two_dashes_after_an_argument_are_an_argument() -> None:
    assert parse(TABLE, ["--", "-f"]).arguments == ["-f"]
    assert parse(TABLE, ["name", "--", "-f"]).arguments == ["name", "--", "-f"]
