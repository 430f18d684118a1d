"""From flags to the body of a create request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cutaway.cli.create_body import create_body
from cutaway.cli.flags import parse
from cutaway.cli.mounts import mount_of, volumes_of
from cutaway.cli.options import CONTAINER_FLAGS
from cutaway.cli.ports import publish
from cutaway.errors import InvalidArgument


def body(*words: str, detach: bool = False) -> dict[str, Any]:
    values, arguments = parse(CONTAINER_FLAGS, [*words, "busybox", "sh", "-c", "x"], interspersed=False)
    return create_body(values, arguments[0], arguments[1:], detach=detach)


def test_a_plain_run_attaches_output_only() -> None:
    made = body()
    assert made["Image"] == "busybox" and made["Cmd"] == ["sh", "-c", "x"]
    assert (made["AttachStdin"], made["AttachStdout"], made["AttachStderr"]) == (False, True, True)
    assert not made["OpenStdin"] and not made["StdinOnce"] and not made["Tty"]
    assert made["HostConfig"] == {
        "NetworkMode": "default",
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    }


def test_interactive_on_a_terminal() -> None:
    made = body("-it")
    assert made["AttachStdin"] and made["OpenStdin"] and made["StdinOnce"] and made["Tty"]
    assert len(made["HostConfig"]["ConsoleSize"]) == 2


def test_detached_attaches_nothing_but_keeps_stdin_open() -> None:
    made = body("-i", detach=True)
    assert not made["AttachStdin"] and not made["AttachStdout"] and not made["StdinOnce"]
    assert made["OpenStdin"]


def test_limits_and_rights() -> None:
    host = body(
        *(
            "-m",
            "64m",
            "--memory-swap",
            "-1",
            "--cpus",
            "0.5",
            "--pids-limit",
            "20",
            "--privileged",
            "--init",
        ),
        *("--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--read-only", "--runtime", "runc", "--rm"),
        *(
            "--security-opt",
            "no-new-privileges",
            "--tmpfs",
            "/t:size=1m",
            "--tmpfs",
            "/u",
            "--sysctl",
            "a.b=1",
        ),
        *("--restart", "no", "--device", "/dev/fuse", "--device", "/dev/null:/dev/x:r"),
    )["HostConfig"]
    assert host["Memory"] == 64 << 20 and host["MemorySwap"] == -1
    assert host["NanoCpus"] == 5 * 10**8 and host["PidsLimit"] == 20
    assert host["Privileged"] and host["Init"] and host["ReadonlyRootfs"] and host["AutoRemove"]
    assert host["CapAdd"] == ["NET_ADMIN"] and host["CapDrop"] == ["ALL"] and host["Runtime"] == "runc"
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["Sysctls"] == {"a.b": "1"}
    assert host["Tmpfs"] == {"/t": "size=1m", "/u": ""}
    assert [(d["PathOnHost"], d["PathInContainer"], d["CgroupPermissions"]) for d in host["Devices"]] == [
        ("/dev/fuse", "/dev/fuse", "rwm"),
        ("/dev/null", "/dev/x", "r"),
    ]


def test_variables_of_files_come_before_those_of_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "inherited")
    monkeypatch.delenv("NOBODYS", raising=False)
    file = tmp_path / "env"
    file.write_text("# a comment\n\nA=1\n  B=2 3\nMINE\nNOBODYS\n")
    made = body("--env-file", os.fspath(file), "-e", "A=4", "-e", "MINE", "-e", "NOBODYS", "-e", "EMPTY=")
    assert made["Env"] == ["A=1", "B=2 3", "MINE=inherited", "A=4", "MINE=inherited", "NOBODYS", "EMPTY="]


def test_an_entrypoint_may_be_reset() -> None:
    assert body("--entrypoint", "")["Entrypoint"] == [""]
    assert "Entrypoint" not in body()


def test_a_network_may_be_given_by_either_name() -> None:
    assert body("--network", "none")["HostConfig"]["NetworkMode"] == "none"
    assert body("--net=host")["HostConfig"]["NetworkMode"] == "host"
    made = body("--network", "mine", "--network-alias", "db", "--ip", "10.0.0.2")
    endpoint = made["NetworkingConfig"]["EndpointsConfig"]["mine"]
    assert endpoint == {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}


def test_a_seccomp_profile_is_sent_as_what_it_says(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    host = body("--security-opt", f"seccomp={profile}")["HostConfig"]
    assert host["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']
    assert body("--security-opt", "seccomp=unconfined")["HostConfig"]["SecurityOpt"] == ["seccomp=unconfined"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--rm", "--restart", "always"), "Conflicting options: --restart and --rm"),
        (("--restart", "on-failure:x"), "maximum retry count must be an integer"),
        (("-e", "=x"), 'invalid argument "=x" for "-e, --env" flag: invalid environment variable: =x'),
        (("-l", "=x"), "invalid label '=x': empty name"),
        (("--mount", "target"), 'invalid argument "target" for "--mount" flag: invalid field'),
        (("--env-file", "/nowhere"), "open /nowhere: no such file or directory"),
        (
            ("--security-opt", "seccomp=/nowhere"),
            "opening seccomp profile (/nowhere) failed: open /nowhere: no such file",
        ),
        (("--no-healthcheck", "--health-cmd", "x"), "--no-healthcheck conflicts with --health-* options"),
        (("--network", "a", "--network", "b"), "one network at a time"),
    ],
)
def test_contradictions(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        body(*words)
    assert text in refusal.value.message


def test_ports() -> None:
    ports, bindings = publish(["8080:80", "127.0.0.1:53:53/udp", "[::1]:90:90", "70", "8000-8001:1000-1001"])
    assert list(ports) == ["80/tcp", "53/udp", "90/tcp", "70/tcp", "1000/tcp", "1001/tcp"]
    assert bindings["80/tcp"] == [{"HostIp": "", "HostPort": "8080"}]
    assert bindings["53/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "53"}]
    assert bindings["90/tcp"] == [{"HostIp": "::1", "HostPort": "90"}]
    assert bindings["70/tcp"] == [{"HostIp": "", "HostPort": ""}]
    assert bindings["1001/tcp"] == [{"HostIp": "", "HostPort": "8001"}]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("x", "Invalid containerPort: x"),
        ("x:80", "Invalid hostPort: x"),
        ("80/foo", "Invalid proto: foo"),
        ("1.2.3.x:1:1", "Invalid ip address: 1.2.3.x"),
        ("1-3:1-2", "Invalid ranges specified"),
        ("99999", "Invalid containerPort: 99999"),
        ("8080:", "No port specified"),
    ],
)
def test_bad_ports(spec: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        publish([spec])


def test_volumes() -> None:
    binds, anonymous = volumes_of(["/a:/b:ro", "name:/c", "/only", "./here:/d"])
    assert binds == ["/a:/b:ro", "name:/c", f"{os.getcwd()}/here:/d"]
    assert anonymous == {"/only": {}}


def test_mounts() -> None:
    assert mount_of("type=bind,source=/a,target=/b,readonly,bind-propagation=rslave") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }
    assert mount_of("dst=/x,type=tmpfs,tmpfs-size=1m,tmpfs-mode=700")["TmpfsOptions"] == {
        "SizeBytes": 1 << 20,
        "Mode": 0o700,
    }


@pytest.mark.parametrize(
    "spec", ["type=bind", "type=bind,foo=1,target=/x", "target=/x,nonsense", "target=/x,ro=perhaps"]
)
def test_bad_mounts(spec: str) -> None:
    with pytest.raises(ValueError, match=r"required|unexpected key|must be|ParseBool"):
        mount_of(spec)
