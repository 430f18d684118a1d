"""Bad input: what is said, with which exit code, and that nothing is left of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named

pytestmark = [pytest.mark.root, pytest.mark.peers]

Change = Callable[[dict[str, Any]], object]
START = "unable to start container process: "
INIT = START + "error during container init: "


def process(**values: object) -> Change:
    return lambda config: config["process"].update(values)


def linux(**values: object) -> Change:
    return lambda config: config["linux"].update(values)


def mount(destination: str, kind: str, source: str, *options: str) -> Change:
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    return lambda config: config["mounts"].append(entry)


def without_namespace(kind: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        entries = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [entry for entry in entries if entry["type"] != kind]

    return change


def namespace(kind: str) -> Change:
    return lambda config: config["linux"]["namespaces"].append({"type": kind})


# Said alike by both runtimes.
COMMON: list[tuple[Change, str]] = [
    (lambda c: c.pop("process"), "process property must not be empty"),
    (process(args=[]), "args must not be empty"),
    (process(cwd=""), "Cwd property must not be empty"),
    (process(cwd="relative"), "Cwd must be an absolute path"),
    (process(cwd="/bin/busybox"), INIT + "mkdir /bin/busybox: not a directory"),
    (process(args=["nope"]), START + 'exec: "nope": executable file not found in $PATH'),
    (process(args=["/nope"]), START + 'exec: "/nope": stat /nope: no such file or directory'),
    (process(args=["/bin"]), START + 'exec: "/bin": permission denied'),
    (process(args=["/notx"]), START + 'exec: "/notx": permission denied'),
    (process(rlimits=[{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]), "wrong rlimit value: RLIMIT_FOO"),
    (
        process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}]),
        INIT + "error setting rlimits for ready process: error setting rlimit type 7: invalid argument",
    ),
    (
        process(selinuxLabel="foo"),
        "selinux label is specified in config, but selinux is disabled or not supported",
    ),
    (lambda c: c.pop("root"), "root must be specified"),
    (
        lambda c: c["root"].update(path="/no/root"),
        "invalid rootfs: stat /no/root: no such file or directory",
    ),
    (namespace("foo"), 'namespace {"foo" ""} does not exist'),
    (namespace("pid"), 'malformed spec file: duplicated ns {"pid" ""}'),
    (namespace("user"), "User namespaces enabled, but no uid mappings found."),
    (without_namespace("uts"), "unable to set hostname without a private UTS namespace"),
    (without_namespace("mount"), "unable to restrict sys entries without a private MNT namespace"),
    (
        linux(sysctl={"kernel.panic": "1"}),
        'sysctl "kernel.panic" is not in a separate kernel namespace',
    ),
    (
        linux(sysctl={"kernel.hostname": "x"}),
        'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field',
    ),
    (
        linux(sysctl={"net.ipv4.nope": "1"}),
        INIT + "open /proc/sys/net/ipv4/nope: no such file or directory",
    ),
    (
        linux(sysctl={"net.ipv4.ip_forward": "foo"}),
        INIT + "write /proc/sys/net/ipv4/ip_forward: invalid argument",
    ),
    (linux(rootfsPropagation="foo"), "rootfsPropagation=foo is not supported"),
    (linux(devices=[{"path": "/dev/x", "type": "x"}]), 'invalid device type "x"'),
    (lambda c: c.update(hostname="x" * 100), INIT + "sethostname: invalid argument"),
    (
        mount("/mnt", "none", "/no/source", "bind"),
        INIT + 'error mounting "/no/source" to rootfs at "/mnt": stat /no/source: no such file or directory',
    ),
]


def failure(runtime: Runtime, bundle: Bundle, name: str) -> str:
    """The error's text without its first words; the container must not exist afterwards."""
    result = runtime("create", "--bundle", bundle, name)
    assert result.code == 1
    assert "Traceback" not in result.err
    assert not cgroups_named(name)
    assert runtime("state", name).error == "container does not exist"
    prefix = "runc create failed: "
    assert result.error.startswith(prefix)
    return result.error[len(prefix) :]


@pytest.mark.parametrize(("change", "message"), COMMON, ids=[message[-40:] for _, message in COMMON])
def test_said_as_runc_says_it(
    runtime: Runtime, bundle: Bundle, name: str, change: Change, message: str
) -> None:
    (bundle.rootfs / "notx").write_text("#!/bin/sh\n")
    change(bundle.config)
    said = failure(runtime, bundle, name)
    if runtime.ours and said != message:  # its words, then where in the configuration that is
        said, _, where = said.partition(" (")
        assert ": expected " in where
    assert said == message


def no_rdt(config: dict[str, Any]) -> None:
    config["linux"]["intelRdt"] = {"closID": "gold"}


# The target's descriptor has a number in runc's text, and newer words are used where they are clearer.
OURS: list[tuple[Change, str]] = [
    (no_rdt, "intelRdt is specified in config, but Intel RDT is not enabled"),
    (
        mount("/bin", "nosuchfs", "x"),
        INIT + 'error mounting "x" to rootfs at "/bin": mount x:/bin: no such device',
    ),
    (
        mount("/mnt", "tmpfs", "x", "size=bad", "ro"),
        INIT + 'error mounting "x" to rootfs at "/mnt": mount x:/mnt, data: size=bad: invalid argument',
    ),
    (
        mount("/bin", "none", "/etc/passwd", "bind"),
        INIT + 'error mounting "/etc/passwd" to rootfs at "/bin": '
        "mount /etc/passwd:/bin, flags: 0x1000: not a directory",
    ),
    (
        mount("/proc/sys", "none", "/etc", "bind"),
        INIT + 'error mounting "/etc" to rootfs at "/proc/sys": '
        '"/proc/sys" cannot be mounted because it is inside /proc',
    ),
    (
        linux(uidMappings=[{"containerID": 0, "hostID": 1, "size": 1}]),
        "user namespace mappings specified, but user namespace isn't enabled in the config",
    ),
    (lambda c: c["root"].update(path="/"), "invalid rootfs: the host's own root cannot be a container's"),
    (
        process(args=["a\0b"]),
        "config.json:process.args[0]: a zero byte cannot be passed to a program",
    ),
    (process(args=["\ud800"]), "config.json:process.args[0]: not a text that can be encoded"),
    (process(env=["NOEQUALS"]), START + 'invalid environment variable: "NOEQUALS"'),
    (
        mount("/mnt", "none", "/etc", "bind", "idmap"),
        "invalid mount mounts[4] (/mnt): id-mapped mounts must have both uid and gid mappings specified",
    ),
    (
        lambda c: c.update(hooks={"prestart": [{"path": "/x", "timeout": 0}]}),
        "hooks.prestart[0].timeout: must be greater than zero",
    ),
]


@pytest.mark.parametrize(("change", "message"), OURS, ids=[message[-40:] for _, message in OURS])
def test_said_in_our_words(ours: Runtime, bundle: Bundle, name: str, change: Change, message: str) -> None:
    change(bundle.config)
    said = failure(ours, bundle, name)
    assert said == message or said.startswith(f"{message} (")


TYPES = [
    (process(args="x"), "config.json:process.args: expected array, got string"),
    (process(args=["x", 3]), "config.json:process.args[1]: expected string, got number"),
    (process(user={"uid": -1}), "process.user.uid: expected an unsigned 32-bit number, got -1"),
    (process(user={"uid": "root"}), "config.json:process.user.uid: expected integer, got string"),
    (process(terminal="yes"), "config.json:process.terminal: expected boolean, got string"),
    (lambda c: c["mounts"][0].pop("destination"), "config.json:mounts[0].destination: required, but missing"),
    (linux(namespaces={}), "config.json:linux.namespaces: expected array, got object"),
    (
        linux(resources={"memory": {"limit": "1g"}}),
        "config.json:linux.resources.memory.limit: expected integer, got string",
    ),
    (lambda c: c.update(ociVersion="1.0"), "ociVersion: expected a version such as 1.2.0, got '1.0'"),
    (lambda c: c.update(ociVersion="invalid"), "ociVersion: expected a version such as 1.2.0, got 'invalid'"),
    (lambda c: c.pop("ociVersion"), "config.json:ociVersion: required, but missing"),
    (lambda c: c.pop("linux"), "linux: required on this platform, but missing"),
]


@pytest.mark.parametrize(("change", "message"), TYPES, ids=[message[-40:] for _, message in TYPES])
def test_a_wrong_type_is_named_by_its_path(
    ours: Runtime, bundle: Bundle, name: str, change: Change, message: str
) -> None:
    change(bundle.config)
    assert failure(ours, bundle, name) == message


def test_a_bundle_that_is_not_there(runtime: Runtime, name: str) -> None:
    result = runtime("create", "--bundle", "/no/bundle", name)
    assert result.error == "runc create failed: chdir /no/bundle: no such file or directory"


def test_a_bundle_without_a_configuration(runtime: Runtime, place: Path, name: str) -> None:
    result = runtime("create", "--bundle", place, name)
    assert result.error == "runc create failed: JSON specification file config.json not found"


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":', b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"NaN"])
def test_a_configuration_that_is_no_json(ours: Runtime, place: Path, name: str, text: bytes) -> None:
    (place / "config.json").write_bytes(text)
    result = ours("create", "--bundle", place, name)
    assert result.code == 1
    assert result.error.startswith("runc create failed: config.json:")
    assert len(result.err.splitlines()) == 1


def test_a_configuration_that_is_a_directory(ours: Runtime, place: Path, name: str) -> None:
    (place / "config.json").mkdir()
    result = ours("create", "--bundle", place, name)
    assert result.error == "runc create failed: open config.json: is a directory"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["frob"], 3, "No help topic for 'frob'"),
        (["--bad"], 1, "flag provided but not defined: -bad"),
        (["create", "--bad", "x"], 1, "flag provided but not defined: -bad"),
        (["run", "--pid-file"], 1, "flag needs an argument: -pid-file"),
        (["--log-format", "xml", "list"], 1, "invalid log-format: xml"),
    ],
)
def test_a_command_line_that_is_wrong(runtime: Runtime, words: list[str], code: int, message: str) -> None:
    result = runtime(*words)
    assert (result.code, result.error.strip()) == (code, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create"], '"create" requires exactly 1 argument(s)'),
        (["start", "a", "b"], '"start" requires exactly 1 argument(s)'),
        (["exec"], '"exec" requires a minimum of 1 argument(s)'),
    ],
)
def test_a_wrong_number_of_arguments(runtime: Runtime, words: list[str], message: str) -> None:
    result = runtime(*words)
    assert result.code == 1
    assert result.error.endswith(message)
    assert result.out.startswith("Incorrect Usage.")


def test_the_log_is_json_and_stderr_has_the_bare_message(runtime: Runtime, place: Path) -> None:
    log = place / "log.json"
    result = runtime("state", "no-such-container", options=["--log", os.fspath(log), "--log-format", "json"])
    entry = json.loads(log.read_text().splitlines()[-1])
    assert set(entry) == {"level", "msg", "time"}
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist")
    assert result.err == "container does not exist\n"


def test_a_log_that_cannot_be_opened(ours: Runtime) -> None:
    result = ours("list", options=["--log", "/no/such/directory/log"])
    assert (result.code, result.error) == (1, "open /no/such/directory/log: no such file or directory")


def test_debug_says_more(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["capabilities"]["ambient"] = ["CAP_KILL"]
    result = ours("run", "--bundle", bundle, name, options=["--debug"])
    assert "level=debug" in result.err


def test_seccomp_action_that_is_not_one(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "FOO"}
    assert "FOO" in failure(runtime, bundle, name)
