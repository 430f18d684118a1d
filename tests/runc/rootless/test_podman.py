"""Rootless podman, which calls its runtime as root of a user namespace: ours, and the reference."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runc.bundles import make_rootfs
from runc.rootless.parts import OURS
from runc.rootless.users import COUNT, ID, SUBORDINATE, User
from support.leftovers import sweep
from support.peers import PEERS, need, peer

pytestmark = [pytest.mark.root, pytest.mark.peers]

Podman = Callable[..., "subprocess.CompletedProcess[str]"]
SECONDS = 60


@pytest.fixture(scope="package")
def settings(user: User) -> dict[str, str]:
    """podman's settings in the user's home, and an image named bb."""
    need("podman", "conmon", "busybox")
    config = user.home / "containers"
    config.mkdir()
    env = {
        "CONTAINERS_CONF": os.fspath(config / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": os.fspath(config / "storage.conf"),
        "LD_LIBRARY_PATH": os.fspath(PEERS / "lib"),
        "TMPDIR": os.fspath(user.home),
    }
    (config / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{user.home}/run"\ngraphroot = "{user.home}/storage"\n'
    )
    runtimes = {"runc": peer("runc").resolve(), "cutaway-runc": OURS}
    (config / "containers.conf").write_text(
        "[containers]\ndefault_ulimits = []\n"
        f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        f'conmon_path = ["{PEERS}/bin/conmon"]\n'
        f"conmon_env_vars = {json.dumps([f'{key}={value}' for key, value in env.items()])}\n"
        "[engine.runtimes]\n" + "".join(f'{name} = ["{path}"]\n' for name, path in runtimes.items())
    )
    home_config = user.home / ".config/containers"
    home_config.mkdir(parents=True)
    (home_config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    rootfs = make_rootfs(user.home / "rootfs")
    archive = user.home / "rootfs.tar"
    subprocess.run(["tar", "-C", rootfs, "-cf", archive, "."], check=True)
    user.own(user.home)
    done = user.run(peer("podman"), "import", archive, "bb", **env)
    assert done.returncode == 0, done.stderr
    return env


@pytest.fixture(params=["cutaway-runc", "runc"])
def podman(request: pytest.FixtureRequest, user: User, settings: dict[str, str]) -> Iterator[Podman]:
    yield lambda *words: user.run(peer("podman"), "--runtime", request.param, *words, **settings)
    sweep(user.home)  # podman's own process, which keeps the user namespace


def test_podman_without_root(podman: Podman, name: str, place: Path) -> None:
    place.chmod(0o755)
    script = "id; cat /proc/self/uid_map; echo x > /dev/null; touch /mnt/x"
    done = podman(
        "run", "--rm", "--network", "none", "--volume", f"{place}:/mnt:ro", "bb", "sh", "-c", script
    )
    ranges = ["0", str(ID), "1", "1", str(SUBORDINATE), str(COUNT)]
    assert done.stdout.split() == ["uid=0", "gid=0", *ranges], done.stderr
    assert "/mnt/x: Read-only file system" in done.stderr
    done = podman("run", "--rm", "--network", "none", "--userns", "keep-id", "bb", "id", "-u")
    assert done.stdout == f"{ID}\n", done.stderr
    assert (
        podman("run", "--detach", "--name", name, "--network", "none", "bb", "sleep", "1000").returncode == 0
    )
    done = podman("exec", "--user", "5", name, "id")
    assert done.stdout == "uid=5 gid=0\n", done
    assert podman("ps", "--format", "{{.Names}}").stdout == f"{name}\n"
    assert podman("rm", "--force", "--time", "0", name).returncode == 0
    assert podman("ps", "--all", "--quiet").stdout == ""
