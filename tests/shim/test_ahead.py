"""A create or an exec that is drawn up while the shim waits for it, and what may happen in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shim.bundles import Bundle, merge
from shim.driver import Shim, ShimHost, TaskError
from support.leftovers import Leftovers
from support.process import children, has_ended, wait_until

pytestmark = pytest.mark.root

KINDS = ("mount", "uts", "ipc", "pid", "network")
NETWORK: dict[str, Any] = {"linux": {"namespaces": [{"type": kind} for kind in KINDS]}}
HOSTS_MOUNTS: dict[str, Any] = {"linux": {"namespaces": [{"type": kind} for kind in KINDS[1:]]}}
OTHERS_USERS: dict[str, Any] = {
    "linux": {"namespaces": [*NETWORK["linux"]["namespaces"], {"type": "user", "path": "/proc/self/ns/user"}]}
}
RECVMSG = {"x86_64": "47", "aarch64": "212"}


def network_of(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def spare_of(shim: Shim) -> int:
    keeper = shim.pid  # it answers when it has made its child
    return min(children()[keeper])  # a shim that has waited has one for the start as well, forked after it


def networks_held(pid: int) -> Iterator[str]:
    """The network namespaces that a process has open and is not in: the sign that a create is drawn up."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found = os.readlink(f"/proc/{pid}/fd/{fd}")
            if found.startswith("net:") and found != network_of("self"):
                yield found


def wait_until_ready(spare: int) -> None:
    """Wait until the child waits to be told something: it has done all that it does ahead."""

    def waiting() -> bool:
        return Path(f"/proc/{spare}/syscall").read_text().split()[0] == RECVMSG[os.uname().machine]

    wait_until(waiting, "the child to wait for a call")


def drawn_up(shim: Shim) -> str:
    """Wait for the draft; the network namespace that belongs to it."""
    spare = spare_of(shim)
    wait_until_ready(spare)
    (found,) = networks_held(spare)
    return found


def change(bundle: Bundle, changes: dict[str, Any]) -> None:
    path = bundle.path / "config.json"
    found = json.loads(path.read_text())
    merge(found, changes)
    path.write_text(json.dumps(found))


def test_a_create_that_was_drawn_up_is_made(warm_host: ShimHost) -> None:
    before = Leftovers.snapshot(warm_host.base)
    bundle = warm_host.bundle("c1", ["sh", "-c", "hostname; exit 3"], **NETWORK)
    shim = warm_host.start(bundle)
    network = drawn_up(shim)
    assert network_of(shim.create()) == network
    assert shim.run_to_exit() == 3
    assert bundle.streams["stdout"].read_all() == b"box\n"
    shim.shutdown()
    assert not Leftovers.snapshot(warm_host.base).since(before)


def test_a_configuration_that_has_changed_since_counts(warm_host: ShimHost) -> None:
    bundle = warm_host.bundle("c1", ["sh", "-c", "exit 3"], **NETWORK)
    shim = warm_host.start(bundle)
    network = drawn_up(shim)
    change(bundle, {"process": {"args": ["sh", "-c", "hostname; exit 4"]}, "hostname": "other"})
    assert network_of(shim.create()) not in (network, network_of("self"))
    assert shim.run_to_exit() == 4
    assert bundle.streams["stdout"].read_all() == b"other\n"
    shim.shutdown()


def test_a_call_with_other_options_is_made_as_it_says(warm_host: ShimHost) -> None:
    """Another root than `start` was told of: where the container's state is."""
    shim = warm_host.start(warm_host.bundle("c1", ["sh", "-c", "exit 3"], **NETWORK))
    drawn_up(shim)
    warm_host.root = warm_host.base / "elsewhere"
    shim.create()
    assert (warm_host.root / warm_host.namespace / "c1" / "state.json").exists()
    assert shim.run_to_exit() == 3
    shim.shutdown()


def test_a_configuration_that_breaks_is_told_at_the_call(warm_host: ShimHost) -> None:
    before = Leftovers.snapshot(warm_host.base)
    bundle = warm_host.bundle("c1", ["true"], **NETWORK)
    shim = warm_host.start(bundle)
    drawn_up(shim)
    change(bundle, {"process": {"cwd": 7}})
    with pytest.raises(TaskError, match=r"process\.cwd"):
        shim.create()
    shim.task("Shutdown")
    assert shim.client.is_closed()
    assert not Leftovers.snapshot(warm_host.base).since(before)


def test_a_configuration_that_is_mended_in_time_is_never_complained_of(warm_host: ShimHost) -> None:
    bundle = warm_host.bundle("c1", ["sh", "-c", "exit 3"])
    change(bundle, {"process": {"cwd": 7}})
    shim = warm_host.start(bundle)
    wait_until_ready(spare_of(shim))
    change(bundle, {"process": {"cwd": "/"}})
    shim.create()
    assert shim.run_to_exit() == 3
    assert (bundle.path / "log.json").read_text() == ""
    shim.shutdown()


def test_what_was_drawn_up_in_vain_goes_with_the_shim(warm_host: ShimHost) -> None:
    before = Leftovers.snapshot(warm_host.base)
    shim = warm_host.start(warm_host.bundle("c1", ["true"], **NETWORK))
    drawn_up(shim)
    spare = spare_of(shim)
    shim.task("Shutdown")
    assert shim.client.is_closed()
    assert has_ended(spare, 10)
    assert not Leftovers.snapshot(warm_host.base).since(before)


@pytest.mark.parametrize("changes", [HOSTS_MOUNTS, OTHERS_USERS], ids=["host's mounts", "others' users"])
def test_what_depends_on_others_is_not_drawn_up(warm_host: ShimHost, changes: dict[str, Any]) -> None:
    """The mounts of the host, and the maps of a user namespace to join, may be others by the call."""
    shim = warm_host.start(warm_host.bundle("c1", ["true"], **changes))
    spare = spare_of(shim)
    wait_until_ready(spare)
    assert list(networks_held(spare)) == []
    shim.task("Shutdown")


def pidfds_held(pid: int) -> list[int]:
    """The pidfds that a process has open: the sign that an exec is drawn up."""
    fds = [int(fd) for fd in os.listdir(f"/proc/{pid}/fd")]
    return [fd for fd in fds if os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:[pidfd]"]


def sleeping(host: ShimHost) -> Shim:
    shim = host.start(host.bundle("c1", ["sleep", "100"]))
    shim.create()
    shim.task("Start")
    return shim


def exec_drawn_up(shim: Shim, init: int) -> int:
    """Wait for the draft of an exec; the child that has it."""
    keeper = shim.pid
    (spare,) = [pid for pid in children()[keeper] if pid != init]
    wait_until_ready(spare)
    assert pidfds_held(spare)
    return spare


def end(shim: Shim) -> None:
    shim.task("Kill", signal=9)
    shim.task("Wait")
    shim.shutdown()


def test_an_exec_that_was_drawn_up_is_made(warm_host: ShimHost) -> None:
    before = Leftovers.snapshot(warm_host.base)
    shim = sleeping(warm_host)
    init = shim.task("State").pid
    shim.exec("e1", ["sh", "-c", "exit 5"])
    exec_drawn_up(shim, init)
    shim.task("Start", exec_id="e1")
    assert shim.task("Wait", exec_id="e1").exit_status == 5
    shim.task("Delete", exec_id="e1")
    end(shim)
    assert not Leftovers.snapshot(warm_host.base).since(before)


def test_a_container_that_was_paused_meanwhile_takes_no_exec(warm_host: ShimHost) -> None:
    shim = sleeping(warm_host)
    shim.exec("e1", ["true"])
    exec_drawn_up(shim, shim.task("State").pid)
    shim.task("Pause")
    with pytest.raises(TaskError, match="cannot exec in a paused container"):
        shim.task("Start", exec_id="e1")
    shim.task("Resume")
    shim.exec("e2", ["sh", "-c", "exit 6"])
    shim.task("Start", exec_id="e2")
    assert shim.task("Wait", exec_id="e2").exit_status == 6
    end(shim)


def test_execs_start_in_any_order(warm_host: ShimHost) -> None:
    """The draft is the first one's; the second is called first."""
    shim = sleeping(warm_host)
    shim.exec("e1", ["sh", "-c", "exit 5"])
    exec_drawn_up(shim, shim.task("State").pid)
    shim.exec("e2", ["sh", "-c", "exit 6"])
    for name, code in (("e2", 6), ("e1", 5)):
        shim.task("Start", exec_id=name)
        assert shim.task("Wait", exec_id=name).exit_status == code
    end(shim)


def test_an_exec_that_is_never_started_leaves_nothing(warm_host: ShimHost) -> None:
    shim = sleeping(warm_host)
    there = sorted(os.listdir(shim.bundle.path))
    shim.exec("e1", ["true"])
    exec_drawn_up(shim, shim.task("State").pid)
    shim.task("Delete", exec_id="e1")
    assert sorted(os.listdir(shim.bundle.path)) == there
    end(shim)


def test_a_tracer_is_noted_when_it_comes(warm_host: ShimHost) -> None:
    """Not when it is only spoken of: a runtime that is called by hand looks for the note (CVE-2019-5736)."""
    shim = sleeping(warm_host)
    note = warm_host.root / warm_host.namespace / "c1" / "tracer"
    caps = {name: ["CAP_SYS_PTRACE"] for name in ("bounding", "effective", "permitted")}
    shim.exec("e1", ["true"], capabilities=caps)
    exec_drawn_up(shim, shim.task("State").pid)
    assert not note.exists()
    shim.task("Start", exec_id="e1")
    assert note.exists()
    end(shim)
