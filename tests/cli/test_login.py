"""`login`, `logout` and what keeps passwords: the same words, and the same config.json, as docker's."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.side_by_side import CUTAWAY, SideBySide
from support.netns import NetNs
from support.peers import need, peer
from support.process import wait_until
from support.stack import GuardedRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

USER, PASSWORD = GuardedRegistry.user, GuardedRegistry.password

HELPER = """\
#!/bin/sh
# Keeps one secret a server in files, as the protocol of credential helpers has it.
folder=$(dirname "$0")/kept
mkdir -p "$folder"
echo "$1" >> "$folder/calls"
input=$(cat)
case $1 in
  store) echo "$input" > "$folder/secret" ;;
  get) cat "$folder/secret" 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;
  erase) rm -f "$folder/secret" ;;
  *) echo "no such action"; exit 2 ;;
esac
"""


@pytest.fixture(scope="module")
def guarded(session_base: Path, session_netns: NetNs) -> Iterator[GuardedRegistry]:
    """A registry that asks for a name and a password."""
    need("docker-registry", "docker")
    with GuardedRegistry(session_base, session_netns, name="guarded") as running:
        yield running


@dataclass
class Desk:
    """One user's desk: docker and cutaway share its config.json."""

    both: SideBySide
    server: str
    folder: Path

    @property
    def config(self) -> dict[str, object]:
        found = json.loads((self.folder / "config.json").read_text())
        assert isinstance(found, dict)
        return found

    def clear(self, settings: Mapping[str, object] | None = None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if settings is not None:
            self.folder.mkdir()
            (self.folder / "config.json").write_text(json.dumps(settings))

    def same(
        self, *words: str, before: Mapping[str, object] | None = None, input: str = ""
    ) -> tuple[int, str, str]:
        """Both do and leave the same, each from the same start."""
        kept = []

        def start() -> None:
            if (self.folder / "config.json").exists():
                kept.append((self.folder / "config.json").read_text())
            self.clear(before)

        found = self.both.same(*words, before=start, input=input)
        if (self.folder / "config.json").exists():
            assert kept[-1] == (self.folder / "config.json").read_text()
        return found.code, found.out, found.err


@pytest.fixture
def desk(both: SideBySide, guarded: GuardedRegistry) -> Iterator[Desk]:
    folder = Path(both.engine.env["DOCKER_CONFIG"])
    found = Desk(both, guarded.host, folder)
    found.clear()
    yield found
    found.clear()


def test_a_password_from_stdin_is_tried_and_kept(desk: Desk) -> None:
    words = ("login", "-u", USER, "--password-stdin", desk.server)
    code, out, err = desk.same(*words, before={"psFormat": "{{.ID}}"}, input=f"{PASSWORD}\n")
    assert (code, out) == (0, "Login Succeeded\n")
    assert err.startswith("WARNING! Your password will be stored unencrypted in ")
    auth = {"auth": "YW5uOm9wZW4gc2VzYW1l"}
    assert desk.config == {"auths": {desk.server: auth}, "psFormat": "{{.ID}}"}
    assert (desk.folder / "config.json").stat().st_mode & 0o777 == 0o600


def test_a_password_on_the_command_line_is_frowned_upon(desk: Desk) -> None:
    code, out, err = desk.same("login", "-u", USER, "-p", PASSWORD, f"https://{desk.server}/v2/")
    assert (code, out) == (0, "Login Succeeded\n")
    assert err.startswith("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")


@pytest.mark.parametrize(
    "line",
    [
        "login",
        "login -u ann",
        "login --password-stdin",
        "login -u ann -p x --password-stdin",
        "login a b",
        "logout a b",
        "login -u ann -p wrong SERVER",
        "login -u ann -p x 127.0.0.1:1",
        "logout",
        "logout SERVER",
    ],
)
def test_refusals_and_goodbyes(desk: Desk, line: str) -> None:
    desk.same(*line.replace("SERVER", desk.server).split())


def test_what_is_kept_is_tried_first(desk: Desk) -> None:
    auths = {desk.server: {"auth": "YW5uOm9wZW4gc2VzYW1l"}, "other:5000": {"auth": "YTpi"}}
    code, out, _ = desk.same("login", desk.server, before={"auths": auths})
    assert (code, out) == (0, "Authenticating with existing credentials...\nLogin Succeeded\n")
    stale = {"auths": {desk.server: {"auth": "YW5uOng="}}}
    code, _, err = desk.same("login", desk.server, before=stale)
    assert code == 1
    assert err.startswith("Login did not succeed, error: ")
    code, _, _ = desk.same("logout", desk.server, before={"auths": auths})
    assert (code, desk.config) == (0, {"auths": {"other:5000": {"auth": "YTpi"}}})


def test_a_pull_uses_what_was_kept(desk: Desk) -> None:
    def pull() -> tuple[int, str]:
        done = desk.both.cutaway("pull", f"{desk.server}/nothing:1")
        return done.code, done.err

    url = f"http://{desk.server}/v2/nothing/manifests/1"
    assert pull() == (1, f'Error response from daemon: Head "{url}": no basic auth credentials\n')
    desk.both.cutaway("login", "-u", USER, "--password-stdin", desk.server, input=PASSWORD)
    code, err = pull()
    assert (code, "not found: manifest unknown" in err) == (1, True)


def test_a_name_and_a_password_typed_at_a_terminal(desk: Desk) -> None:
    shown = {}
    for program in (peer("docker"), CUTAWAY):
        desk.clear()
        shown[program] = typed(desk, program, [USER, PASSWORD])
    assert shown[CUTAWAY] == shown[peer("docker")]
    assert "Username: ann" in shown[CUTAWAY]
    assert PASSWORD not in shown[CUTAWAY]
    assert "Login Succeeded" in shown[CUTAWAY]


def typed(desk: Desk, program: Path, lines: list[str]) -> str:
    """What a terminal shows of a login whose questions are answered."""
    ours, theirs = pty.openpty()
    env = desk.both.engine.env
    command = [str(program), "login", desk.server]
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        shown = ""
        for question, line in zip(("Username: ", "Password: "), lines, strict=True):
            while not shown.endswith(question):
                shown += os.read(ours, 1).decode()
            if question.startswith("Password"):
                wait_until(lambda: not echoes(theirs), "the terminal is told to be discreet")
            os.write(ours, f"{line}\n".encode())
        os.close(theirs)
        try:
            while data := os.read(ours, 4096):
                shown += data.decode()
        except OSError:
            pass  # EIO: nobody has the other side any more, pty(7)
    os.close(ours)
    assert running.returncode == 0, shown
    return shown


def echoes(terminal: int) -> bool:
    import termios

    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


@pytest.mark.parametrize("settings", [{"credsStore": "test"}, {"credHelpers": {"SERVER": "test"}}])
def test_a_helper_keeps_the_password(desk: Desk, settings: dict[str, object], tmp_path: Path) -> None:
    text = json.dumps(settings).replace("SERVER", desk.server)
    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    path = desk.both.engine.env["PATH"]
    desk.both.engine.env["PATH"] = f"{tmp_path}:{path}"
    try:
        calls = [
            through_helper(desk, json.loads(text), tmp_path / "kept", program) for program in (None, CUTAWAY)
        ]
    finally:
        desk.both.engine.env["PATH"] = path
    assert calls[0] == calls[1]


def through_helper(desk: Desk, settings: dict[str, object], kept: Path, program: Path | None) -> list[str]:
    """Log in, pull and log out by one program; returns what it asked of the helper."""
    shutil.rmtree(kept, ignore_errors=True)
    desk.clear(settings)
    done = desk.both.run(program, "login", "-u", USER, "--password-stdin", desk.server, input=PASSWORD)
    assert (done.code, done.out, done.err) == (0, "Login Succeeded\n", "")
    assert json.loads((kept / "secret").read_text()) == {
        "ServerURL": desk.server, "Username": USER, "Secret": PASSWORD}  # fmt: skip
    assert desk.config["auths"] == {desk.server: {}}
    assert "manifest unknown" in desk.both.run(program, "pull", f"{desk.server}/nothing:1").err
    assert desk.both.run(program, "logout", desk.server).code == 0
    assert not (kept / "secret").exists()
    return [*dict.fromkeys((kept / "calls").read_text().split())]


def test_a_helper_that_is_not_there_is_named(desk: Desk) -> None:
    desk.clear({"credsStore": "gone"})
    done = desk.both.cutaway("login", "-u", USER, "--password-stdin", desk.server, input=PASSWORD)
    assert (done.code, done.out) == (1, "")
    assert "docker-credential-gone" in done.err
    desk.clear({"credsStore": "../evil"})
    done = desk.both.cutaway("pull", f"{desk.server}/nothing:1")
    assert (done.code, "invalid credential helper '../evil'" in done.err) == (1, True)


def test_a_broken_file_is_said_and_not_used(desk: Desk) -> None:
    desk.clear({})
    (desk.folder / "config.json").write_text("{")
    done = desk.both.cutaway("pull", f"{desk.server}/nothing:1")
    assert done.err.startswith("WARNING: Error loading config file: ")
    assert (done.code, "no basic auth credentials" in done.err) == (1, True)
