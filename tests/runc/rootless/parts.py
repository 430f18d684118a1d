"""What the tests of rootless containers share."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runc.bundles import Bundle, Config, Runtime
from runc.rootless.users import COUNT, ID, SUBORDINATE, User
from support.peers import VENV_BIN

OURS = VENV_BIN / "cutaway-runc"
RANGES = [
    {"containerID": 0, "hostID": ID, "size": 1},
    {"containerID": 1, "hostID": SUBORDINATE, "size": COUNT},
]
SHOW_MAPS = "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups"
SINGLE = ["uid=0", "gid=0", "0", str(ID), "1", "0", str(ID), "1", "deny"]
SETUP = "unable to start container process: unable to setup user: "
IN_INIT = "unable to start container process: error during container init: "


def runtime_of(program: Path, user: User, place: Path) -> Iterator[Runtime]:
    root = place / "root"
    root.mkdir()
    os.chown(root, ID, ID)
    runtime = Runtime(program, root, prefix=user.prefix())
    yield runtime
    runtime.clean()


def default(user: User) -> Config:
    """What `spec --rootless` writes."""
    folder = user.home / secrets.token_hex(4)
    folder.mkdir()
    os.chown(folder, ID, ID)
    done = user.run(OURS, "spec", "--rootless", "--bundle", folder)
    assert (done.returncode, done.stderr) == (0, "")
    config: Config = json.loads((folder / "config.json").read_text())
    return config


def out(runtime: Runtime, bundle: Bundle, name: str) -> str:
    result = runtime("run", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, ""), result.err
    return result.out


def map_ranges(bundle: Bundle) -> Bundle:
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = RANGES
    return bundle


def sleeping(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.process["args"] = ["sleep", "1000"]
    result = runtime.detached("run", "--detach", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, ""), result.err


def without_user_namespace(config: Config) -> None:
    linux = config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "user"]
