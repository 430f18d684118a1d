"""What the program finds: its user, rights, directory, environment, descriptors and terminal."""

from __future__ import annotations

import array
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.peers]


def out(runtime: Runtime, bundle: Bundle, name: str) -> str:
    """What the program says, which must be all there is."""
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, "")
    return result.out


def test_user_groups_and_umask(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027}
    assert out(runtime, bundle.shell("id; umask"), name) == "uid=1000 gid=1001 groups=5,6\n0027\n"


def test_umask_is_0022_unless_said(runtime: Runtime, bundle: Bundle, name: str) -> None:
    assert out(runtime, bundle.shell("umask"), name) == "0022\n"


def test_environment_is_the_configurations_and_home(runtime: Runtime, bundle: Bundle, name: str) -> None:
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nme:x:7:7::/home/me:/bin/sh\n")
    bundle.process["user"] = {"uid": 7, "gid": 7}
    bundle.process["env"] += ["A=1", "A=2"]
    bundle.process["args"] = ["env"]
    assert sorted(out(runtime, bundle, name).split()) == ["A=2", "HOME=/home/me", "PATH=/bin", "TERM=xterm"]


def test_home_is_the_root_without_a_user_list(runtime: Runtime, bundle: Bundle, name: str) -> None:
    assert out(runtime, bundle.shell("echo $HOME"), name) == "/\n"


def test_working_directory_is_made(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["cwd"] = "/made/by/runtime"
    assert out(runtime, bundle.shell("pwd"), name) == "/made/by/runtime\n"


def test_capabilities_and_no_new_privileges(runtime: Runtime, bundle: Bundle, name: str) -> None:
    sets = {"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}
    bundle.process["capabilities"] = sets
    bundle.process["args"] = ["grep", "-E", "Cap|NoNewPrivs", "/proc/self/status"]
    assert out(runtime, bundle, name).split() == [
        "CapInh:", f"{0:016x}", "CapPrm:", f"{0x20:016x}", "CapEff:", f"{0x20:016x}",
        "CapBnd:", f"{0x21:016x}", "CapAmb:", f"{0:016x}", "NoNewPrivs:", "1",
    ]  # fmt: skip


def test_an_empty_capabilities_object_drops_all(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["capabilities"] = {}
    bundle.process["args"] = ["grep", "CapBnd", "/proc/self/status"]
    assert out(runtime, bundle, name).split() == ["CapBnd:", f"{0:016x}"]


def test_unknown_capabilities_are_passed_over_with_a_warning(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.process["capabilities"] = {"bounding": ["CAP_FOO"]}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 0
    assert "ignoring unknown or unavailable capabilities: [CAP_FOO]" in result.err


def test_capabilities_that_the_runtime_lacks_are_passed_over_with_a_warning(
    ours: Runtime, bundle: Bundle, name: str
) -> None:
    sets = ("bounding", "effective", "permitted", "inheritable")
    bundle.process["capabilities"] = {each: ["CAP_KILL", "CAP_WAKE_ALARM"] for each in sets}
    bundle.process["args"] = ["grep", "CapEff", "/proc/self/status"]
    command = ours.command("run", "--bundle", bundle, name)
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-wake_alarm", *command],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["CapEff:", f"{1 << 5:016x}"]
    assert "ignoring unknown or unavailable capabilities: [CAP_WAKE_ALARM]" in done.stderr


def test_seccomp_filter_is_on(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    bundle.config["root"]["readonly"] = False
    result = runtime("run", "--bundle", bundle.shell("grep Seccomp: /proc/self/status; mkdir /x"), name)
    assert result.out.split() == ["Seccomp:", "2"]
    assert result.err == "mkdir: can't create directory '/x': No space left on device\n"


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_filter_that_forbids_the_runtimes_farewell_does_no_harm(
    runtime: Runtime, bundle: Bundle, name: str, no_new_privileges: bool
) -> None:
    names = ["sendto", "sendmsg", "sendmmsg", "socket", "connect"]
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}],
    }
    bundle.process["noNewPrivileges"] = no_new_privileges
    assert out(runtime, bundle.shell("echo fine"), name) == "fine\n"


def refuse(bundle: Bundle, call: str) -> None:
    """A filter that refuses a system call, put on before the privileges go."""
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO"}],
    }
    bundle.process["noNewPrivileges"] = False


@pytest.mark.parametrize("program", ["id", "/bin/id"])
def test_a_filter_that_forbids_asking_for_access_does_no_harm(
    runtime: Runtime, bundle: Bundle, name: str, program: str
) -> None:
    # Profiles of before Linux 5.8 do not know faccessat2 and answer EPERM.
    refuse(bundle, "faccessat2")
    bundle.process["args"] = [program, "-u"]
    assert out(runtime, bundle, name) == "0\n"


def test_a_filter_that_forbids_asking_for_access_allows_no_more(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    refuse(bundle, "faccessat2")
    (bundle.rootfs / "plain").write_text("")
    bundle.process["args"] = ["/plain"]
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.error.endswith("permission denied")) == (1, True)


def test_a_filter_that_forbids_getcwd_does_no_harm(ours: Runtime, bundle: Bundle, name: str) -> None:
    refuse(bundle, "getcwd")
    bundle.process.update(args=["ls", "busybox"], cwd="/bin")
    assert out(ours, bundle, name) == "busybox\n"


def test_rlimits(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    assert out(runtime, bundle.shell("ulimit -Sn; ulimit -Hn"), name) == "100\n200\n"


def test_a_limit_higher_than_the_hosts_is_refused_in_words(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": hard + (1 << 40)}]
    assert runtime("run", "--bundle", bundle, name).error == (
        "runc run failed: unable to start container process: error during container init: error setting "
        "rlimits for ready process: error setting rlimit type 7: operation not permitted"
    )


def test_oom_score(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["oomScoreAdj"] = 321
    assert out(runtime, bundle.shell("cat /proc/self/oom_score_adj"), name) == "321\n"


def test_the_program_is_the_first_process_in_a_session_of_its_own(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.process["args"] = ["sh", "-c", "set -- $(cat /proc/self/stat); echo $$ $6"]
    assert out(runtime, bundle, name) == "1 1\n"


def test_signals_ignored_by_the_interpreter_are_not_ignored_by_the_program(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.process["args"] = ["grep", "-E", "SigIgn|SigBlk", "/proc/self/status"]
    _, blocked, _, ignored = out(runtime, bundle, name).split()
    of_the_interpreter = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert (int(blocked, 16), int(ignored, 16) & of_the_interpreter) == (0, 0)


def test_no_descriptor_of_the_callers_gets_in(runtime: Runtime, bundle: Bundle, name: str) -> None:
    leaked = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        result = runtime("run", "--bundle", bundle.shell("ls -l /proc/$$/fd; :"), name, pass_fds=[leaked])
    finally:
        os.close(leaked)
    assert result.code == 0
    assert "/etc" not in result.out


def test_preserved_descriptors_get_in(runtime: Runtime, bundle: Bundle, name: str) -> None:
    # The descriptor's number is the point, so the caller is a shell that can choose it.
    bundle.shell("cat <&3")
    (bundle.path / "passed").write_text("by descriptor\n")
    script = 'exec "$@" 3<passed'
    command = runtime.command("run", "--preserve-fds", "1", "--bundle", bundle, name)

    done = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=bundle.path,
    )
    assert done.stdout == "by descriptor\n"


def test_a_preserved_descriptor_must_be_open(ours: Runtime, bundle: Bundle, name: str) -> None:
    result = ours("run", "--preserve-fds", "20", "--bundle", bundle, name)
    assert "unable to stat preserved-fd 0 (of 20): stat /proc/self/fd/3: no such file" in result.error


def test_a_descriptor_of_the_runtimes_own_is_not_preserved(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    """Its log is open by then, and the folder that it was called in (CVE-2024-21626)."""
    words = ("--log", place / "log", "run", "--preserve-fds", "1", "--bundle", bundle, name)
    result = ours(*words)
    assert result.code == 1
    assert "unable to stat preserved-fd 0 (of 1)" in result.err


@contextmanager
def console_socket(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        listener.settimeout(20)
        yield listener


def receive(listener: socket.socket) -> tuple[bytes, int]:
    """The one message of a console socket: its payload and its descriptor."""
    connection, _ = listener.accept()
    with connection:
        data, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(16))
        assert connection.recv(1) == b""  # and nothing more
    (level, kind, rights) = ancillary[0]
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    fds = array.array("i", rights)
    assert len(fds) == 1
    return data, fds[0]


def read_all(master: int) -> str:
    """What a terminal says until its last slave is closed."""
    text = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            return text.decode()
        if not data:
            return text.decode()
        text += data


def test_a_terminal_is_sent_over_the_console_socket(
    runtime: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 31, "width": 97}
    bundle.shell("tty; stty size; test -c /dev/console && echo console; ls -l /dev/ptmx | tail -c 9")
    with console_socket(place / "tty") as listener:
        assert (
            runtime.detached("create", "--bundle", bundle, "--console-socket", place / "tty", name).code == 0
        )
        payload, master = receive(listener)
    assert payload == b"/dev/ptmx"
    runtime("start", name)
    text = read_all(master)
    os.close(master)
    assert text.split() == ["/dev/pts/0", "31", "97", "console", "pts/ptmx"]


def test_exec_with_a_terminal(runtime: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    words = ("exec", "--tty", "--detach", "--console-socket", place / "tty", name, "sh", "-c", "tty; echo $$")
    with console_socket(place / "tty") as listener:
        assert runtime.detached(*words).code == 0
        payload, master = receive(listener)
    text = read_all(master)
    os.close(master)
    assert payload == b"/dev/ptmx"
    assert text.split()[0] == "/dev/pts/0"


@pytest.mark.parametrize(
    ("terminal", "words", "message"),
    [
        (True, [], "cannot allocate tty if runc will detach without setting console socket"),
        (
            False,
            ["--console-socket", "/nowhere"],
            "cannot use console socket if runc will not detach or allocate tty",
        ),
    ],
)
def test_a_terminal_needs_a_console_socket_and_the_other_way_round(
    runtime: Runtime, bundle: Bundle, name: str, terminal: bool, words: list[str], message: str
) -> None:
    bundle.process["terminal"] = terminal
    result = runtime("create", *words, "--bundle", bundle, name)
    assert (result.code, result.error) == (1, f"runc create failed: {message}")


def test_personality_is_32_bits(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert out(ours, bundle.shell("cat /proc/self/personality"), name) == "00000008\n"


def test_scheduler_and_io_priority(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 7}
    bundle.shell("set -- $(cat /proc/self/stat); echo ${41} ${19}")
    assert out(ours, bundle, name) == "3 5\n"
