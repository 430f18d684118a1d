"""`checkpoint` and `restore` up to criu's edge: what it is asked, as a decoder that is not ours reads it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cutaway.errors import DataLoss
from cutaway.runc.criu import messages, wire
from runc.bundles import Bundle, Runtime
from support.peers import need, peer

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, base_dir: Path) -> None:
    """runc leaves criu's logs where it is called."""
    monkeypatch.chdir(base_dir)


# The fields that these tests look at, with the numbers and types of criu's images/rpc.proto.
FIELDS = {
    "pair": {"key": (1, "string"), "value": (2, "string")},
    "inherited": {"key": (1, "string"), "fd": (2, "int32")},
    "server": {"address": (1, "string"), "port": (2, "int32")},
    "options": {
        "images_dir_fd": (1, "int32"),
        "pid": (2, "int32"),
        "leave_running": (3, "bool"),
        "ext_unix_sk": (4, "bool"),
        "tcp_established": (5, "bool"),
        "shell_job": (7, "bool"),
        "file_locks": (8, "bool"),
        "log_level": (9, "int32"),
        "log_file": (10, "string"),
        "ps": (11, "server"),
        "notify_scripts": (12, "bool"),
        "root": (13, "string"),
        "parent_img": (14, "string"),
        "track_mem": (15, "bool"),
        "auto_dedup": (16, "bool"),
        "work_dir_fd": (17, "int32"),
        "ext_mnt": (23, "pair*"),
        "cg_root": (25, "pair*"),
        "rst_sibling": (26, "bool"),
        "inherit_fd": (27, "inherited*"),
        "manage_cgroups_mode": (34, "int32"),
        "external": (37, "string*"),
        "empty_ns": (38, "uint32"),
        "freeze_cgroup": (44, "string"),
        "lazy_pages": (48, "bool"),
        "orphan_pts_master": (50, "bool"),
        "config_file": (51, "string"),
    },
    "request": {"type": (1, "int32"), "opts": (2, "options"), "notify_success": (3, "bool")},
}
TYPES = {"int32": 5, "string": 9, "bool": 8, "uint32": 13}


def build() -> Any:
    """The class of a request, made by protobuf itself."""
    file = descriptor_pb2.FileDescriptorProto(name="criu-test.proto", package="criu_test", syntax="proto2")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in TYPES:
                added.type = TYPES[kind]  # type: ignore[assignment]
            else:
                added.type, added.type_name = 11, f".criu_test.{kind}"  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("criu_test.request"))


Request = build()

# A criu that knows the conversation and nothing of processes.
PRETENDER = """#!{python}
import json, os, socket, sys
here = os.path.dirname(os.path.abspath(__file__))
link = socket.socket(fileno=int(sys.argv[2]))
request = link.recv(1 << 16)
version = bytes([8, 10, 16, 1, 82, 6, 8, 3, 16, 17, 32, 1])  # VERSION, success, 3.17.1
if request[:2] == bytes([8, 10]):
    link.send(version)
elif request[:2] == bytes([8, 9]):
    link.send(bytes([8, 9, 16, 1, 66, 2, 8, 1]))  # FEATURE_CHECK, success, mem_track
else:
    open(here + "/request", "wb").write(request)
    links = [os.readlink("/proc/self/fd/%d" % fd) for fd in range(3)]
    json.dump(links, open(here + "/stdio", "w"))
    answer = open(here + "/answer", "rb").read()
    for script in (b"network-lock", b"post-dump"):
        notice = bytes([10, len(script)]) + script
        link.send(bytes([8, 6, 16, 1, 42, len(notice)]) + notice)
        assert link.recv(100) == bytes([8, 6, 24, 1])
    link.send(answer.replace(b"?", request[1:2]))
link.recv(1)
"""
DONE, FAILED = b"\x08?\x10\x01", b"\x08?\x10\x00\x38\x16"


@pytest.fixture
def pretender(place: Path) -> Path:
    program = place / "criu"
    program.write_text(PRETENDER.format(python=sys.executable))
    program.chmod(0o755)
    (place / "answer").write_bytes(DONE)
    return program


@pytest.fixture
def running(ours: Runtime, bundle: Bundle, name: str, place: Path) -> str:
    bundle.process["args"] = ["sleep", "1000"]
    (place / "shared").mkdir()
    bundle.mount("/mnt/shared", "none", os.fspath(place / "shared"), "bind")
    (bundle.rootfs / "mnt/shared").mkdir(parents=True)
    bundle.linux["maskedPaths"] = ["/proc/keys", "/proc/acpi", "/no/such"]
    assert ours.detached("run", "--detach", "--bundle", bundle, name).code == 0
    return name


def asked(place: Path) -> Any:
    return Request.FromString((place / "request").read_bytes())


def test_what_criu_is_asked_to_save(
    ours: Runtime, bundle: Bundle, running: str, place: Path, pretender: Path
) -> None:
    pid = ours.state(running)["pid"]
    result = ours(
        "checkpoint", "--image-path", place / "images", "--work-path", place / "work", "--leave-running",
        "--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--auto-dedup",
        "--manage-cgroups-mode", "full", "--page-server", "[::1]:77", "--empty-ns", "network", running,
        options=["--criu", os.fspath(pretender)],
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    request = asked(place)
    options = request.opts
    assert request.type == 1
    assert (options.pid, options.root) == (pid, os.fspath(bundle.rootfs))
    flags = ("leave_running", "tcp_established", "ext_unix_sk", "shell_job", "file_locks", "auto_dedup")
    assert all(getattr(options, flag) for flag in (*flags, "notify_scripts", "orphan_pts_master"))
    assert not options.lazy_pages
    assert (options.log_file, options.log_level, options.config_file) == (
        "dump.log",
        4,
        "/etc/criu/runc.conf",
    )
    assert (options.manage_cgroups_mode, options.empty_ns) == (4, 0x40000000)
    assert (options.ps.address, options.ps.port) == ("::1", 77)
    assert options.freeze_cgroup.endswith(running)
    outside = {pair.key: pair.value for pair in options.ext_mnt}
    assert outside["/mnt/shared"] == "/mnt/shared"
    assert outside["/proc/keys"] == "/dev/null"
    assert not {"/proc/acpi", "/no/such"} & set(outside)  # a directory, and nothing
    assert json.loads((place / "images/descriptors.json").read_text())[0] == "/dev/null"
    assert (place / "images").stat().st_mode & 0o777 == 0o700
    assert ours.status(running) == "running"


def test_what_was_saved_is_deleted(ours: Runtime, running: str, place: Path, pretender: Path) -> None:
    result = ours("--criu", pretender, "checkpoint", "--image-path", place / "images", running)
    assert (result.code, result.err) == (0, "")
    assert ours("state", running).error == "container does not exist"


def test_a_pre_dump_saves_memory_alone(ours: Runtime, running: str, place: Path, pretender: Path) -> None:
    (place / "images/first").mkdir(parents=True)
    words = ("checkpoint", "--pre-dump", "--parent-path", "../first", "--image-path", place / "images/second")
    assert ours("--criu", pretender, *words, running).code == 0
    request = asked(place)
    assert (request.type, request.opts.parent_img, request.opts.track_mem) == (4, "../first", True)
    assert not request.opts.ext_mnt
    assert ours.status(running) == "running"


def test_annotations_name_crius_configuration(
    ours: Runtime, bundle: Bundle, name: str, place: Path, pretender: Path
) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    bundle.config["annotations"] = {"org.criu.config": "/some/file"}
    ours.detached("run", "--detach", "--bundle", bundle, name)
    ours("--criu", pretender, "checkpoint", "--image-path", place / "images", name)
    assert asked(place).opts.config_file == "/some/file"


def test_a_failure_leaves_the_container_and_names_the_log(
    ours: Runtime, running: str, place: Path, pretender: Path
) -> None:
    (place / "answer").write_bytes(FAILED)
    result = ours("--criu", pretender, "checkpoint", "--image-path", place / "images", running)
    assert result.code == 1
    assert result.error == f"criu failed: type DUMP errno 22\nlog file: {place}/images/dump.log"
    assert ours.status(running) == "running"


def test_a_criu_that_says_nothing(ours: Runtime, running: str, place: Path) -> None:
    result = ours("--criu", "/bin/true", "checkpoint", "--image-path", place / "images", running)
    assert "criu ended without an answer" in result.error
    assert ours.status(running) == "running"


def test_a_missing_feature_is_named(ours: Runtime, running: str, place: Path, pretender: Path) -> None:
    words = ("checkpoint", "--lazy-pages", "--image-path", place / "images", running)
    assert ours("--criu", pretender, *words).error == "criu is missing features: [LazyPages]"


def test_a_failed_restore_leaves_nothing(
    ours: Runtime, bundle: Bundle, running: str, place: Path, pretender: Path
) -> None:
    (place / "answer").write_bytes(FAILED)
    ours("checkpoint", "--image-path", place / "images", running, options=["--criu", os.fspath(pretender)])
    descriptors = place / "images/descriptors.json"
    descriptors.write_text(json.dumps(["/dev/null", "pipe:[77]", "/dev/null"]))
    words = ("restore", "--detach", "--image-path", place / "images", "--bundle", bundle, "restored")
    result = ours("--criu", pretender, *words)
    assert "criu failed: type RESTORE errno 22" in result.error
    request = asked(place)
    options = request.opts
    assert (request.type, options.rst_sibling, options.log_file) == (2, True, "restore.log")
    assert options.root == os.fspath(ours.root / "restored/criu-root")
    assert [(each.key, each.fd) for each in options.inherit_fd] == [("pipe:[77]", 1)]
    outside = {pair.key: pair.value for pair in options.ext_mnt}
    assert outside == {"/mnt/shared": os.fspath(place / "shared"), "/dev/null": "/dev/null"}
    assert any(pair.value.endswith("/restored") for pair in options.cg_root)
    assert not (ours.root / "restored").exists()
    assert "criu-root" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parent-path", "/x"], "--parent-path must be relative"),
        (["--page-server", "here"], "Use --page-server ADDRESS:PORT to specify page server"),
        (["--page-server", "here:port"], "Invalid port number"),
        (["--empty-ns", "pid"], 'namespace "pid" is not supported'),
        (["--manage-cgroups-mode", "x"], "Invalid manage cgroups mode"),
    ],
)
def test_command_lines_that_cannot_be(
    runtime: Runtime, bundle: Bundle, name: str, place: Path, words: list[str], message: str
) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    result = runtime("checkpoint", "--image-path", place / "images", *words, name)
    assert (result.code, result.error) == (1, message)


def test_without_criu(runtime: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    message = 'CRIU version check failed: exec: "criu": executable file not found in $PATH'
    bundle.process["args"] = ["sleep", "1000"]
    runtime.detached("run", "--detach", "--bundle", bundle, name)
    env = {"PATH": os.fspath(place)}
    assert runtime("checkpoint", "--image-path", place / "images", name, env=env).error == message
    words = ("restore", "--image-path", place / "images", "--bundle", bundle, "other")
    assert runtime(*words, env=env).error == message


@pytest.mark.parametrize("status", ["created", "stopped"])
def test_only_a_running_container_can_be_saved(
    runtime: Runtime, bundle: Bundle, name: str, status: str
) -> None:
    runtime.detached("create", "--bundle", bundle, name)
    if status == "stopped":
        runtime("start", name)
        runtime.wait_for(name, "stopped")
    assert runtime("checkpoint", name).error == f"Container cannot be checkpointed in {status} state"


def test_the_real_criu_understands(ours: Runtime, running: str, place: Path) -> None:
    """It tells its version, and says why it cannot go on where it cannot."""
    need("criu")
    result = ours(
        "--criu", peer("criu"), "checkpoint", "--leave-running", "--image-path", place / "images", running
    )
    assert (place / "images/dump.log").exists()
    assert result.code == 0 or result.error.startswith("criu failed: type DUMP errno")


def test_wire() -> None:
    assert wire.varint(300) == b"\xac\x02"
    assert wire.decode(wire.number(3, -1)) == {3: [(1 << 64) - 1]}
    assert wire.decode(b"\x0d\1\2\3\4\x11\1\2\3\4\5\6\7\x08") == {
        1: [b"\1\2\3\4"],
        2: [b"\1\2\3\4\5\6\7\x08"],
    }
    for bad in (b"\x08", b"\x12\x05ab", b"\x0b\x00", b"\x80" * 11):
        with pytest.raises(DataLoss):
            wire.decode(bad)


def test_a_version_from_git_is_the_next_minor() -> None:
    released = wire.number(1, 3) + wire.number(2, 17) + wire.number(4, 1)
    assert messages.Response(wire.data(10, released)).version == 31701
    assert messages.Response(wire.data(10, released + wire.data(3, b"v3.17.1-5"))).version == 31800
