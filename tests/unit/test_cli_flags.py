"""Reading a command line as docker does."""

from __future__ import annotations

import pytest

from cutaway.cli.failure import UsageError
from cutaway.cli.flags import Flag, HelpWanted, Values, parse

FLAGS = (
    Flag("interactive", "i"),
    Flag("tty", "t"),
    Flag("rm"),
    Flag("sig-proxy", "", "bool", "", "true"),
    Flag("env", "e", "list"),
    Flag("name", "", "string"),
    Flag("memory", "m", "bytes"),
    Flag("time", "", "int", "", "10"),
    Flag("cpus", "", "decimal"),
    Flag("ulimit", "", "ulimit"),
)


def read(*words: str, interspersed: bool = False) -> tuple[Values, list[str]]:
    return parse(FLAGS, words, interspersed=interspersed)


def test_short_flags_combine() -> None:
    values, rest = read("-it", "busybox")
    assert values.on("interactive") and values.on("tty") and not values.on("rm")
    assert rest == ["busybox"]


@pytest.mark.parametrize("words", [("-e", "A=1"), ("-eA=1",), ("-e=A=1",), ("--env", "A=1"), ("--env=A=1",)])
def test_every_way_to_give_a_value(words: tuple[str, ...]) -> None:
    assert read(*words)[0].texts("env") == ["A=1"]


def test_the_last_short_flag_of_a_group_may_take_a_value() -> None:
    values, _ = read("-ite", "A=1")
    assert values.on("tty") and values.texts("env") == ["A=1"]


def test_flags_end_at_the_image() -> None:
    assert read("--rm", "busybox", "ls", "-i", "--rm")[1] == ["busybox", "ls", "-i", "--rm"]


def test_flags_may_follow_arguments_where_a_command_allows_it() -> None:
    values, rest = read("one", "--rm", "two", interspersed=True)
    assert values.on("rm") and rest == ["one", "two"]


def test_two_dashes_end_flags() -> None:
    values, rest = read("--", "--rm", interspersed=True)
    assert not values.on("rm") and rest == ["--rm"]


def test_a_single_dash_is_an_argument() -> None:
    assert read("-", "x")[1] == ["-", "x"]


def test_booleans_take_a_value_only_with_an_equals_sign() -> None:
    assert not read("--rm=false")[0].on("rm")
    assert not read("--sig-proxy=0")[0].on("sig-proxy")
    assert read("--rm", "false")[1] == ["false"]


def test_defaults_count_until_something_is_given() -> None:
    values, _ = read()
    assert values.on("sig-proxy") and values.number("time") == 10 and not values.given("time")
    assert read("--time=3")[0].number("time") == 3


def test_of_a_repeated_single_flag_the_last_counts() -> None:
    assert read("--name", "a", "--name", "b")[0].text("name") == "b"


def test_sizes_and_cpus_are_read_as_numbers() -> None:
    values, _ = read("-m", "64m", "--cpus", "1.5")
    assert values.number("memory") == 64 << 20
    assert values.number("cpus") == 1_500_000_000


def test_limits_are_read_as_pairs() -> None:
    assert read("--ulimit", "nofile=5:6")[0].items("ulimit") == [{"Name": "nofile", "Soft": 5, "Hard": 6}]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--nope",), "unknown flag: --nope"),
        (("-x",), "unknown shorthand flag: 'x' in -x"),
        (("-itx",), "unknown shorthand flag: 'x' in -itx"),
        (("--name",), "flag needs an argument: --name"),
        (("-ie",), "flag needs an argument: 'e' in -ie"),
        (("--=x",), "bad flag syntax: --=x"),
        (("---x",), "bad flag syntax: ---x"),
        (("-m", "abc"), 'invalid argument "abc" for "-m, --memory" flag: invalid size: \'abc\''),
        (("--cpus", "x"), 'invalid argument "x" for "--cpus" flag: failed to parse x as a rational number'),
        (("--rm=x",), 'invalid argument "x" for "--rm" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (("--time", ""), 'invalid argument "" for "--time" flag: strconv.ParseInt: parsing "": invalid'),
        (("--ulimit", "x"), 'invalid argument "x" for "--ulimit" flag: invalid ulimit argument: x'),
        (("--ulimit", "x=1"), 'invalid argument "x=1" for "--ulimit" flag: invalid ulimit type: x'),
    ],
)  # fmt: skip
def test_refusals_are_worded_as_docker_words_them(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read(*words)
    assert refusal.value.message.startswith(text)
    assert refusal.value.exit_code == 125


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_noticed(word: str) -> None:
    with pytest.raises(HelpWanted):
        read(word)
