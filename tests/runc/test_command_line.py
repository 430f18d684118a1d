"""The command line to the letter: ours and the real runc side by side, exit code, stdout and stderr."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from support.peers import VENV_BIN, need, peer

pytestmark = [pytest.mark.root, pytest.mark.peers]

OURS = VENV_BIN / "cutaway-runc"
COMMANDS = (
    "checkpoint", "create", "delete", "events", "exec", "features", "kill", "list", "pause", "ps", "restore",
    "resume", "run", "spec", "start", "state", "update",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a program said, less what must differ: its name, the time, the wording of help."""

    code: int
    out: str
    err: str


def ask(program: Path, root: Path, *words: str, env: dict[str, str] | None = None) -> Said:
    done = subprocess.run(
        [program, "--root", root, *words],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=root.parent,
        env={**os.environ, **env} if env else None,
    )
    return Said(done.returncode, plain(program, done.stdout), plain(program, done.stderr))


def plain(program: Path, text: str) -> str:
    text = text.replace(os.fspath(program), "PROGRAM")
    text = re.sub(r'time="[^"]*"', "time=NOW", re.sub(r'"time":"[^"]*"', '"time":NOW', text))
    return text.partition("NAME:\n")[0] + "HELP" if "NAME:\n" in text else text


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state root that does not exist yet, in a directory where both programs run."""
    need("root", "runc")
    return tmp_path_factory.mktemp("cmd") / "root"


NOBODY = "no-such-container"

SAME: list[tuple[str, ...]] = [
    (), ("--help",), ("-h",), ("help",), ("h",), ("help", "run"), ("help", "nope"),
    ("version",), ("frob",), ("init",), ("--frob",), ("--debug=maybe", "list"), ("--log",),
    ("--log-format", "xml", "list"), ("--log", "/no/such/log", "list"), ("--log", "", "list"),
    ("--systemd-cgroup", "list"), ("--criu", "x", "list"), ("--rootless", "auto", "list"),
    ("create",), ("create", "a", "b"), ("create", "--frob", "a"), ("create", "--bundle"), ("create", "help"),
    ("create", "--preserve-fds", "x", "a"), ("create", "-b", "/no/bundle", "a"), ("create", "--", "a"),
    ("create", "--bundle=/no/bundle", "a"), ("create", "-bundle", "/no/bundle", "a"), ("create", ""),
    ("create", "a", "--bundle", "/no/bundle"), ("create", "--no-pivot=maybe", "a"),
    ("run",), ("run", "a", "b"), ("run", NOBODY), ("run", "-d", NOBODY), ("run", "--keep", "-b", "/no", "a"),
    ("start",), ("start", "a", "b"), ("start", NOBODY), ("start", "a/b"),
    ("exec",), ("exec", NOBODY), ("exec", NOBODY, "true"), ("exec", "-p", "/no/file", NOBODY),
    ("exec", "--frob", NOBODY, "true"), ("exec", NOBODY, "true", "--frob"), ("exec", "--help"),
    ("state",), ("state", NOBODY), ("state", "a/b"), ("state", ""), ("state", "a", "b"), ("state", "--help"),
    ("state", "--frob", "a"),
    ("kill",), ("kill", NOBODY), ("kill", NOBODY, "FOO"), ("kill", NOBODY, "9", "10"),
    ("kill", "-a", NOBODY, "9"), ("kill", "--all", NOBODY), ("kill", "--", NOBODY),
    ("delete",), ("delete", NOBODY), ("delete", "-f", NOBODY), ("delete", "--force=false", NOBODY),
    ("delete", NOBODY, "--force"), ("delete", "-f", "a/b"), ("delete", "a/b"), ("delete", "-f"),
    ("list",), ("list", "x"), ("list", "-f", "xml"), ("list", "--format", "json"),
    ("list", "-f", "json", "-q"), ("list", "-f"), ("list", "-q"), ("list", "--quiet"),
    ("--root", "/etc/passwd", "list"),
    ("ps",), ("ps", NOBODY), ("ps", "-f", "xml", NOBODY), ("ps", "--format", "json", NOBODY, "-ef"),
    ("pause",), ("pause", NOBODY), ("pause", "a", "b"), ("resume",), ("resume", NOBODY),
    ("update",), ("update", NOBODY), ("update", "a", "b"), ("update", "--memory", "x", NOBODY),
    ("update", "--pids-limit", "x", NOBODY),
    ("events",), ("events", NOBODY), ("events", "--stats", NOBODY), ("events", "a", "b"),
    ("events", "--interval", "x", NOBODY), ("events", "--interval", "", NOBODY),
    ("events", "--interval", "1.5", NOBODY), ("events", "--interval", "1m1x", NOBODY),
    ("events", "--interval", "0s", NOBODY), ("events", "--interval", "1m30.5s", NOBODY),
    ("spec", "x"), ("spec", "-b", "/no/bundle"), ("features", "x"),
    ("checkpoint",), ("checkpoint", NOBODY), ("restore",), ("restore", "-b", "/no/bundle", NOBODY),
    ("--log-format", "json", "state", NOBODY),
]  # fmt: skip


@pytest.mark.parametrize("words", SAME, ids=[" ".join(words) or "nothing" for words in SAME])
def test_both_say_the_same(empty: Path, words: tuple[str, ...]) -> None:
    assert ask(OURS, empty, *words) == ask(peer("runc"), empty, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_runc_is_taken(command: str) -> None:
    """By the help of both: their wording differs, the names of commands and options do not."""
    need("runc")
    theirs, ours = (
        subprocess.run([program, command, "--help"], capture_output=True, text=True, check=True).stdout
        for program in (peer("runc"), OURS)
    )
    options = re.compile(r"^ +(--?[a-z][^ ]*(?: value)?(?:, --?[a-z][^ ]*(?: value)?)*)  ", re.MULTILINE)
    assert set(options.findall(theirs)) <= set(options.findall(ours))
    assert ours.startswith(f"NAME:\n   cutaway-runc {command} - ")


def test_help_lists_every_command() -> None:
    theirs, ours = (
        subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
        for program in (peer("runc"), OURS)
    )
    names = re.compile(r"^   ([a-z]+)(?:, h)?  ", re.MULTILINE)
    missing = set(names.findall(theirs)) - set(names.findall(ours))
    assert missing <= {"help"}


def test_the_language_of_the_user_changes_nothing(empty: Path) -> None:
    german = {"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"}
    for words in (("state", NOBODY), ("create", "-b", "/no/bundle", "a")):
        assert ask(OURS, empty, *words, env=german) == ask(OURS, empty, *words, env={"LC_ALL": "C"})


def test_debug_of_a_users_mistake_has_no_traceback(empty: Path) -> None:
    said = ask(OURS, empty, "--debug", "state", NOBODY)
    assert (said.code, said.err) == (1, 'time=NOW level=error msg="container does not exist"\n')


def test_version_has_the_lines_that_callers_read() -> None:
    for program in (OURS, peer("runc")):
        for option in ("--version", "-v"):
            done = subprocess.run([program, option], capture_output=True, text=True, check=True)
            lines = done.stdout.splitlines()
            assert re.fullmatch(r"runc version \S+", lines[0].replace("cutaway-", ""))
            assert [line.partition(": ")[0] for line in lines[1:3]] == ["commit", "spec"]
            assert lines[-1].startswith("libseccomp: ")


# On a container that runs, and then on the same one when it has stopped.
ON_A_CONTAINER: list[tuple[str, ...]] = [
    ("kill", "ID", "FOO"), ("kill", "ID", "0"), ("kill", "ID", "99"), ("kill", "ID", "sigwinch"),
    ("kill", "ID", "SIGRTMIN"), ("kill", "ID", ""), ("kill", "-a", "ID", "0"), ("start", "ID"),
    ("resume", "ID"), ("delete", "ID"), ("ps", "-f", "xml", "ID"), ("ps", "ID", "-o", "comm"),
    ("exec", "ID"), ("exec", "ID", "nope"), ("exec", "ID", "/bin"), ("exec", "--user", "x", "ID", "true"),
    ("exec", "--cwd", "/nope", "ID", "true"), ("exec", "-p", "/no/file", "ID"),
    ("exec", "-d", "-t", "ID", "true"),
    ("exec", "--console-socket", "/no/socket", "ID", "true"), ("exec", "-d", "ID", "true"),
    ("exec", "-t", "-d", "--console-socket", "/no/socket", "ID", "true"), ("exec", "ID", "false"),
    ("exec", "-e", "A=b", "--env", "C=d", "ID", "sh", "-c", "echo $A $C"),
    ("exec", "ID", "sh", "-c", "exit 9"),
    ("events", "--interval", "-1s", "ID"),
    ("update", "--memory", "lots", "ID"), ("update", "--cpu-quota", "x", "ID"),
    ("update", "-r", "/no/file", "ID"),
]  # fmt: skip


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_both_say_the_same_of_a_container(place: Path, status: str) -> None:
    said: dict[str, dict[tuple[str, ...], Said]] = {}
    bundle = Bundle(place / "bundle")
    bundle.process["args"] = ["sleep", "1000"]
    for program in (OURS, peer("runc")):
        runtime = Runtime(program, place / program.name)
        runtime.root.mkdir()
        name = f"cw-{place.name}"
        runtime.detached("run", "--detach", "--bundle", bundle, name)
        if status == "stopped":
            runtime("kill", name, "KILL")
            runtime.wait_for(name, "stopped")
        try:
            said[program.name] = {
                words: ask(program, runtime.root, *(name if word == "ID" else word for word in words))
                for words in ON_A_CONTAINER
                if not (status == "stopped" and words[0] == "delete")
            }
        finally:
            runtime.clean()
    ours, theirs = said.values()
    assert ours == theirs
