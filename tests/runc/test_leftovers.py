"""A create that fails, or is killed, leaves nothing: compared with the machine before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime, cgroups_named
from support.leftovers import Leftovers
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]


def after_cgroup(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}]


def in_mounts(bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "tmpfs").mount("/bin", "nosuchfs", "x")


def in_limits(bundle: Bundle) -> None:
    bundle.linux["resources"] = {"memory": {"limit": 4096}}


def in_prestart(bundle: Bundle) -> None:
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/false"}]}


def in_the_last_step(bundle: Bundle) -> None:
    bundle.process["args"] = ["/nope"]


def in_the_bridge(bundle: Bundle) -> None:
    bundle.namespace("network", "/etc/passwd")


def in_the_maps(bundle: Bundle) -> None:
    overlapping = [{"containerID": 0, "hostID": 1, "size": 10}, {"containerID": 5, "hostID": 50, "size": 10}]
    bundle.namespace("user").linux["uidMappings"] = overlapping
    bundle.linux["gidMappings"] = overlapping


STAGES = [after_cgroup, in_mounts, in_limits, in_prestart, in_the_last_step, in_the_bridge, in_the_maps]


@pytest.mark.parametrize("break_it", STAGES)
def test_a_failed_create_leaves_nothing(
    ours: Runtime, bundle: Bundle, name: str, place: Path, break_it: Callable[[Bundle], None]
) -> None:
    break_it(bundle)
    bundle.write()
    before = Leftovers.snapshot(place)
    files = sorted(os.listdir(ours.root))
    result = ours("create", "--bundle", bundle, name)
    assert result.code == 1
    assert not (found := Leftovers.snapshot(place).since(before)), str(found)
    assert not cgroups_named(name)
    assert sorted(os.listdir(ours.root)) == files


def test_a_pid_file_that_cannot_be_written_leaves_nothing(ours: Runtime, bundle: Bundle, name: str) -> None:
    result = ours("create", "--bundle", bundle, "--pid-file", "/no/such/directory/pid", name)
    assert (result.code, os.listdir(ours.root)) == (1, [])
    assert "no such file or directory" in result.error
    assert not cgroups_named(name)


def test_a_console_socket_that_nobody_listens_on(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["terminal"] = True
    result = ours("create", "--bundle", bundle, "--console-socket", "/no/socket", name)
    assert result.error == "runc create failed: dial unix /no/socket: connect: no such file or directory"
    assert not os.listdir(ours.root)


def test_what_a_killed_create_leaves_delete_removes(
    ours: Runtime, bundle: Bundle, name: str, place: Path
) -> None:
    """kill -9 of the runtime while a hook runs: init has its cgroup and waits for nobody."""
    script = f"echo $$ > {place}/hook; exec sleep 1000"
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    with subprocess.Popen(
        ours.command("create", "--bundle", bundle, name), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as creating:
        wait_until(lambda: (place / "hook").exists() and bool((place / "hook").read_text()), "the hook runs")
        assert ours.status(name) == "creating"
        creating.kill()
    os.kill(int((place / "hook").read_text()), 9)
    assert ours("delete", "--force", name).code == 0
    assert not os.listdir(ours.root)
    assert not cgroups_named(name)


def test_a_directory_without_a_state_is_removed_by_delete(ours: Runtime, name: str) -> None:
    """kill -9 between mkdir and the state's first writing."""
    (ours.root / name).mkdir()
    assert ours("delete", name).error == "container does not exist"
    assert not os.listdir(ours.root)


def test_a_run_leaves_nothing(ours: Runtime, bundle: Bundle, name: str, place: Path) -> None:
    bundle.write()
    before = Leftovers.snapshot(place)
    assert ours("run", "--bundle", bundle, name).code == 0
    assert not (found := Leftovers.snapshot(place).since(before)), str(found)
    assert not os.listdir(ours.root)
