"""What a user's configuration may hold, in runc's words where it may not."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from runc.bundles import Bundle, Config, Runtime
from runc.rootless.parts import (
    IN_INIT,
    OURS,
    SETUP,
    map_ranges,
    out,
    without_user_namespace,
)
from runc.rootless.users import ID, User
from support.peers import peer

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_spec_writes_what_runc_writes(user: User) -> None:
    found = {}
    for program in (OURS, peer("runc")):
        for option in ([], ["--rootless"]):
            folder = user.home / secrets.token_hex(4)
            folder.mkdir()
            os.chown(folder, ID, ID)
            assert user.run(program, "spec", *option, "--bundle", folder).returncode == 0
            text = json.loads((folder / "config.json").read_text())
            text.pop("hostname"), text.pop("ociVersion")
            text["linux"]["maskedPaths"].sort()
            found[program.name, bool(option)] = text
    for rootless in (False, True):
        assert found["cutaway-runc", rootless] == found["runc", rootless]


def change_linux(**values: Any) -> Callable[[Config], None]:
    return lambda config: config["linux"].update(values)


def change_process(**values: Any) -> Callable[[Config], None]:
    return lambda config: config["process"].update(values)


def option(name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        next(m for m in config["mounts"] if m["type"] == "devpts")["options"].append(name)

    return change


def own_sysfs(config: Config) -> None:
    sys = next(mount for mount in config["mounts"] if mount["destination"] == "/sys")
    sys.update(type="sysfs", source="sysfs", options=["ro"])


REFUSED: dict[str, tuple[Callable[[Config], None], str]] = {
    "no user namespace": (without_user_namespace, "rootless container requires user namespaces"),
    "no uid map": (
        change_linux(uidMappings=[]),
        "User namespaces enabled, but no uid mappings found.",
    ),
    "no gid map": (
        change_linux(gidMappings=[]),
        "User namespaces enabled, but no gid mappings found.",
    ),
    "no root": (
        change_linux(uidMappings=[{"containerID": 5, "hostID": ID, "size": 1}]),
        "User namespaces enabled, but no user mapping found.",
    ),
    "no root group": (
        change_linux(gidMappings=[{"containerID": 5, "hostID": ID, "size": 1}]),
        "User namespaces enabled, but no group mapping found.",
    ),
    "mount for another user": (
        option("uid=5"),
        "cannot specify uid= mount options for unmapped uid in rootless containers",
    ),
    "mount for another group": (
        option("gid=5"),
        "cannot specify gid= mount options for unmapped gid in rootless containers",
    ),
    "groups": (
        change_process(user={"uid": 0, "gid": 0, "additionalGids": [0]}),
        SETUP + "cannot set any additional groups in a rootless container",
    ),
    "another user": (
        change_process(user={"uid": 5, "gid": 0}),
        SETUP + "cannot set uid to unmapped user in user namespace",
    ),
    "another group": (
        change_process(user={"uid": 0, "gid": 5}),
        SETUP + "cannot set gid to unmapped user in user namespace",
    ),
    "hard limit raised": (
        change_process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]),
        f"{IN_INIT}error setting rlimits for ready process: "
        "error setting rlimit type 7: operation not permitted",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_user_may_not_is_refused_in_runcs_words(
    runtime: Runtime, bundle: Bundle, name: str, case: str
) -> None:
    change, message = REFUSED[case]
    change(bundle.config)
    result = runtime("run", "--bundle", bundle, name)
    said = result.error.partition(" (linux.")[0] if runtime.ours else result.error
    assert (result.code, said) == (1, f"runc run failed: {message}")
    assert runtime("state", name).error == "container does not exist"


def test_sysfs_needs_a_network_of_its_own(runtime: Runtime, bundle: Bundle, name: str) -> None:
    own_sysfs(bundle.config)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "cgroup"]
    result = runtime("run", "--bundle", bundle, name)
    assert result.code == 1
    assert 'error mounting "sysfs" to rootfs at "/sys": mount sysfs:/sys' in result.error
    assert result.error.endswith(", flags: 0x1: operation not permitted")
    assert out(runtime, bundle.namespace("network").shell("ls /sys/class/net"), name) == "lo\n"


def test_a_lower_oom_score_is_the_hosts_root_s(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["oomScoreAdj"] = -500
    assert ours("run", "--bundle", bundle, name).error == (
        "runc run failed: unable to start container process: "
        "failed to update /proc/self/oom_score_adj: permission denied"
    )


def test_a_higher_oom_score_is_set(runtime: Runtime, bundle: Bundle, name: str) -> None:
    map_ranges(bundle).process["oomScoreAdj"] = 500
    assert out(runtime, bundle.shell("cat /proc/self/oom_score_adj"), name) == "500\n"
