"""What a filter of config.json does to the program inside: rules, flags, and calls that an agent answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import Bundle, Runtime
from support.seccomp_agent import CONTINUE, Agent

pytestmark = [pytest.mark.root, pytest.mark.peers]

ALLOW, ERRNO, NOTIFY = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY"
UMASK = {"x86_64": 95, "aarch64": 166}[os.uname().machine]
EMULATED = 0o1234


def answer(number: int, _pid: int) -> tuple[int, int, int]:
    """umask has an answer of ours; everything else fails in a way that no kernel would."""
    return (EMULATED, 0, 0) if number == UMASK else (0, errno.EXDEV, 0)


@pytest.fixture
def agent(place: Path) -> Iterator[Agent]:
    with Agent(place / "agent", answer) as agent:
        yield agent


def ask(bundle: Bundle, agent: Path, *names: str, **more: Any) -> None:
    """Have an agent asked about system calls."""
    bundle.linux["seccomp"] = {
        "defaultAction": ALLOW,
        "listenerPath": os.fspath(agent),
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": list(names), "action": NOTIFY}],
        **more,
    }


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_an_agent_answers_the_programs_calls(
    runtime: Runtime, bundle: Bundle, name: str, place: Path, agent: Agent, no_new_privileges: bool
) -> None:
    ask(bundle, place / "agent", "umask", "mkdir", "mkdirat")
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.config["annotations"] = {"key": "value"}
    result = runtime("run", "--bundle", bundle.shell("umask; mkdir /made"), name)
    assert result.out == f"{EMULATED:04o}\n"
    assert result.err == "mkdir: can't create directory '/made': Invalid cross-device link\n"
    (told,) = agent.states
    state = told.pop("state")
    assert told.pop("ociVersion") == state.pop("ociVersion")
    assert told == {"fds": ["seccompFd"], "pid": state["pid"], "metadata": "for the agent"}
    assert state == {
        "id": name,
        "status": "creating",
        "pid": state["pid"],
        "bundle": os.fspath(bundle.path),
        "annotations": {"key": "value"},
    }


def test_exec_has_a_listener_of_its_own(
    runtime: Runtime, bundle: Bundle, name: str, place: Path, agent: Agent
) -> None:
    ask(bundle, place / "agent", "umask")
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    pid = runtime.state(name)["pid"]
    assert runtime("exec", name, "sh", "-c", "umask").out == f"{EMULATED:04o}\n"
    created, executed = agent.states
    assert (created["pid"], created["state"]["pid"]) == (pid, pid)
    assert executed["pid"] != pid
    assert executed["state"]["pid"] == pid
    assert executed["state"]["status"] == "running"


def test_an_agent_may_let_a_call_go_on(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    with Agent(place / "agent", lambda number, pid: (0, 0, CONTINUE)) as agent:
        ask(bundle, place / "agent", "mkdir", "mkdirat", flags=["SECCOMP_FILTER_FLAG_TSYNC"])
        bundle.config["root"]["readonly"] = False
        assert ours("run", "--bundle", bundle.shell("mkdir /made && ls -d /made"), name).out == "/made\n"
    assert agent.calls


def test_an_agent_may_be_asked_about_what_the_runtime_itself_does_last(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    # Everything between the filter and the program: ids, capabilities, the farewell, the fifo, exec itself.
    names = ["setresuid", "setgroups", "capset", "chdir", "sendto", "openat", "close", "execve", "recvfrom"]
    with Agent(place / "agent", lambda number, pid: (0, 0, CONTINUE)):
        ask(bundle, place / "agent", *names)
        bundle.process["noNewPrivileges"] = False
        assert ours("run", "--bundle", bundle.shell("echo there"), name).out == "there\n"


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"defaultAction": NOTIFY}, "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            {"syscalls": [{"names": ["read", "write"], "action": NOTIFY}]},
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        ({"listenerPath": None}, "listenerPath is not set"),
        (
            {},
            "failed to connect with seccomp agent specified in the seccomp profile: "
            "dial unix /no/agent: connect: no such file or directory",
        ),
        ({"architectures": ["SCMP_ARCH_PDP11"]}, "string SCMP_ARCH_PDP11 is not a valid arch for seccomp"),
        ({"defaultAction": "ALLOW"}, "string ALLOW is not a valid action for seccomp"),
    ],
)
def test_what_cannot_be_is_refused_in_runcs_words_and_leaves_nothing(
    runtime: Runtime, bundle: Bundle, name: str, profile: dict[str, Any], message: str
) -> None:
    ask(bundle, Path("/no/agent"), "mkdir", **profile)
    bundle.linux["seccomp"] = {key: value for key, value in bundle.linux["seccomp"].items() if value}
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert message in result.error
    assert runtime("list", "-q").out == ""


def comparison(op: str, value: int, value_two: int | None = None, index: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index, "value": value, "op": f"SCMP_CMP_{op}"}
    return found if value_two is None else {**found, "valueTwo": value_two}


# busybox's `kill -0 1`, `-1`, `-2` ... by the second argument of kill(2).
@pytest.mark.parametrize(
    ("conditions", "refused"),
    [
        ([comparison("EQ", 18)], {18}),
        ([comparison("NE", 18)], {17, 19, 23, 28}),
        ([comparison("LT", 19)], {17, 18}),
        ([comparison("LE", 19)], {17, 18, 19}),
        ([comparison("GT", 19)], {23, 28}),
        ([comparison("GE", 19)], {19, 23, 28}),
        ([comparison("MASKED_EQ", 0b10001, 0b10001)], {17, 19, 23}),
        ([comparison("GE", 18), comparison("EQ", 1, index=0)], {18, 19, 23, 28}),
        # Two conditions on one argument: either is enough, as in runc.
        ([comparison("EQ", 17), comparison("EQ", 28)], {17, 28}),
    ],
)
def test_conditions_on_arguments(
    runtime: Runtime, bundle: Bundle, name: str, conditions: list[dict[str, Any]], refused: set[int]
) -> None:
    rule = {"names": ["kill"], "action": ERRNO, "errnoRet": errno.EXDEV, "args": conditions}
    bundle.linux["seccomp"] = {"defaultAction": ALLOW, "syscalls": [rule]}
    # CHLD, CONT, STOP, URG and WINCH: the first process of a pid namespace is spared or ignores them.
    bundle.shell("for n in 17 18 19 23 28; do kill -$n 1 2>/dev/null || echo $n; done; :")
    result = runtime("run", "--bundle", bundle, name)
    assert {int(word) for word in result.out.split()} == refused


@pytest.mark.parametrize(
    "action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]
)
def test_deadly_actions(runtime: Runtime, bundle: Bundle, name: str, action: str) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": ALLOW,
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
    }
    result = runtime("run", "--bundle", bundle.shell("(mkdir /x); echo $?"), name)
    assert result.out == f"{128 + 31}\n"  # SIGSYS


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"action": "SCMP_ACT_TRACE"}, "Function not implemented"),  # without a tracer
        ({"action": "SCMP_ACT_LOG"}, ""),
        ({"action": ERRNO}, "Operation not permitted"),
        ({"action": ERRNO, "errnoRet": errno.EXDEV}, "Invalid cross-device link"),
    ],
)
def test_other_actions(
    runtime: Runtime, bundle: Bundle, name: str, rule: dict[str, Any], message: str
) -> None:
    bundle.linux["seccomp"] = {"defaultAction": ALLOW, "syscalls": [{"names": ["mkdir", "mkdirat"], **rule}]}
    bundle.config["root"]["readonly"] = False
    result = runtime("run", "--bundle", bundle.shell("mkdir /x"), name)
    assert (result.code, message in result.err) == (1 if message else 0, True)


def test_flags_of_newer_runcs(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": ALLOW,
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": ERRNO}],
    }
    bundle.shell("grep Seccomp: /proc/self/status")
    assert ours("run", "--bundle", bundle, name).out.split()[1] == "2"


def test_waiting_killable_needs_an_agent(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    bundle.linux["seccomp"] = {"defaultAction": ALLOW, "flags": flags}
    assert "error loading seccomp filter into kernel" in ours("run", "--bundle", bundle, name).error
    with Agent(place / "agent", answer):
        ask(bundle, place / "agent", "umask", flags=flags)
        assert ours("run", "--bundle", bundle.shell("umask"), name).out == f"{EMULATED:04o}\n"


def test_an_unknown_flag_is_named(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["seccomp"] = {"defaultAction": ALLOW, "flags": ["SECCOMP_FILTER_FLAG_MAGIC"]}
    assert (
        "seccomp flag SECCOMP_FILTER_FLAG_MAGIC is not known" in ours("run", "--bundle", bundle, name).error
    )


def test_a_profile_without_default_and_rules_is_none(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["seccomp"] = {"defaultAction": ""}
    result = runtime("run", "--bundle", bundle.shell("grep Seccomp: /proc/self/status"), name)
    assert result.out.split() == ["Seccomp:", "0"]
