"""What containerd passes on the command line, and what the runtime gets on its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from cutaway.pb.runtime_info_pb2 import RuntimeInfo
from shim.driver import PROGRAM, ShimHost
from support.peers import VENV_BIN, peer

pytestmark = pytest.mark.root


def test_start_prints_the_address_and_nothing_else(host: ShimHost) -> None:
    bundle = host.bundle("c1", ["true"])
    done = host.command(bundle, "start")
    name = hashlib.sha256(f"{host.address}/{host.namespace}/c1".encode()).hexdigest()
    assert done.output == f"unix:///run/containerd/s/{name}".encode()
    assert host.command(bundle, "start").output == done.output, "a living shim is found again"
    shim = host.start(bundle)
    shim.task("Shutdown")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start"], "shim namespace cannot be empty"),
        (["-namespace=n", "-id=x", "restart"], "unknown action 'restart': the actions are start and delete"),
        (["-frobnicate", "start"], "flag provided but not defined: -frobnicate"),
        (["-namespace=n", "start"], "shim start: -id is needed"),
        (["-namespace=n", "-id", "../x", "delete"], "shim delete: '../x' is no container id"),
    ],
)
def test_a_wrong_command_line_is_one_line_on_stderr(arguments: list[str], said: str) -> None:
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"containerd-shim-cutaway-v1: {said}"


def test_version_and_info() -> None:
    said = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("containerd-shim-cutaway-v1:\n  Version:")
    told = subprocess.run([PROGRAM, "-info"], capture_output=True, input=b"", check=True).stdout
    info = RuntimeInfo.FromString(told)
    assert info.name == "io.containerd.cutaway.v1"
    assert json.loads(info.features.value)["ociVersionMin"]


@pytest.fixture
def recorder(base_dir: Path) -> Path:
    """A runtime that notes how it was called, and then is the real one."""
    program = base_dir / "recorder"
    program.write_text(f'#!/bin/sh\necho "$(pwd) $*" >> {base_dir}/calls\nexec {peer("runc")} "$@"\n')
    program.chmod(0o755)
    return program


def test_the_runtimes_command_lines(base_dir: Path, recorder: Path) -> None:
    with ShimHost(base_dir, runtime=os.fspath(recorder)) as host:
        bundle = host.bundle("c1", ["sleep", "100"])
        shim = host.start(bundle)
        shim.create()
        shim.task("Start")
        shim.exec("e1", ["true"])
        shim.task("Start", exec_id="e1")
        shim.task("Wait", exec_id="e1")
        shim.task("Pause")
        shim.task("Resume")
        shim.task("Pids")
        shim.task("Update", resources={"type_url": "x", "value": b"{}"})
        shim.task("Kill", signal=15, all=True)
        shim.task("Kill", signal=9)
        shim.task("Wait")
        shim.shutdown()
        host.delete(bundle)
    path = bundle.path
    start = f"{path} --root {host.root}/{host.namespace} --log {path}/log.json --log-format json "
    calls = (base_dir / "calls").read_text().splitlines()
    assert all(call.startswith(start) for call in calls)
    words = [call.removeprefix(start) for call in calls]
    process_file = words[2].split()[2]
    assert process_file == f"{path}/e1.process.json"
    assert not Path(process_file).exists()
    assert words == [
        f"create --bundle {path} --pid-file {path}/init.pid c1",
        "start c1",
        f"exec --process {process_file} --detach --pid-file {path}/e1.pid c1",
        "pause c1",
        "resume c1",
        "ps --format json c1",
        "update --resources - c1",
        "kill --all c1 15",
        "kill c1 9",
        "delete c1",
    ]


def test_options_become_flags_and_are_kept_in_the_bundle(base_dir: Path, recorder: Path) -> None:
    with ShimHost(base_dir, runtime=os.fspath(recorder)) as host:
        bundle = host.bundle("c1", ["true"], terminal=True)
        shim = host.start(bundle)
        options = host.options()
        options.no_new_keyring = True
        any_options = {"type_url": "containerd.runc.v1.Options", "value": options.SerializeToString()}
        stdout = str(bundle.path / "stdout")
        shim.task("Create", bundle=str(bundle.path), options=any_options, terminal=True, stdout=stdout)
        assert shim.run_to_exit() == 0
        shim.shutdown()
    create = (base_dir / "calls").read_text().splitlines()[0].split()
    assert create[create.index("--console-socket") + 1].startswith(f"{base_dir}/pty")
    assert create[-2:] == ["--no-new-keyring", "c1"]
    assert json.loads((bundle.path / "options.json").read_text()) == {
        "no_new_keyring": True,
        "binary_name": os.fspath(recorder),
        "root": os.fspath(host.root),
    }
    assert (bundle.path / "runtime").read_text() == os.fspath(recorder)


@pytest.mark.parametrize(
    ("name", "runtime"), [("containerd-shim-runc-v2", "runc"), (PROGRAM.name, "cutaway-runc")]
)
def test_without_options_the_shims_name_chooses_the_runtime(base_dir: Path, name: str, runtime: str) -> None:
    from cutaway.shim.options import default_binary

    program = base_dir / name
    program.symlink_to(PROGRAM)
    expected = os.fspath(VENV_BIN / "cutaway-runc") if runtime == "cutaway-runc" else "runc"
    assert default_binary(os.fspath(program)) == expected
