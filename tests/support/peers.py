"""Find the real programs that tests run beside, and the environment they run in.

`tools/peers.py` unpacks them into `.peers/`; nothing else is looked at, so that a test never runs
against some other version that happens to be on this machine's PATH.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

import pytest

PROJECT: Final = Path(__file__).resolve().parents[2]
PEERS: Final = PROJECT / ".peers"
VENV_BIN: Final = PROJECT / ".venv/bin"

# Where root's programs are; PATH of an ordinary user leaves them out.
SYSTEM_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def find_peer(name: str) -> Path | None:
    """The real program of a name, or None."""
    program = PEERS / "bin" / name
    return program if program.exists() else None


def peer(name: str) -> Path:
    """The real program of a name; the test is skipped without it."""
    need(name)
    return PEERS / "bin" / name


def need(*names: str) -> None:
    """Skip the running test unless this machine has all that is named: peers' programs, or the word root.

    With CUTAWAY_REQUIRE_PEERS=1, as in CI, a lack is a failure.
    """
    missing = [name for name in names if not has(name)]
    if missing:
        lack(f"needs {', '.join(missing)}")


def has(name: str) -> bool:
    return os.geteuid() == 0 if name == "root" else find_peer(name) is not None


def lack(reason: str) -> NoReturn:
    if os.environ.get("CUTAWAY_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def peer_path_env(*first: Path) -> dict[str, str]:
    """An environment, and nothing of the caller's own, in which the peers find one another.

    The folders in `first` come before them: a part of ours placed there under a peer's name takes its place.
    """
    env = {
        "PATH": os.pathsep.join([*map(os.fspath, first), os.fspath(PEERS / "bin"), *SYSTEM_PATH]),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": "/tmp",
    }
    if is_wrapped("dockerd"):
        # The runtime starts dockerd once more by /proc/PID/exe, as a hook, past the wrapper that sets this.
        env["LD_LIBRARY_PATH"] = os.fspath(PEERS / "lib")
    return env


def is_wrapped(name: str) -> bool:
    """Whether a peer is started by a script, because this machine lacks libraries it needs."""
    program = find_peer(name)
    if program is None:
        return False
    with program.open("rb") as file:
        return file.read(2) == b"#!"


def permitted_limits() -> list[str]:
    """Limits that podman may set: its own are above what a root without CAP_SYS_RESOURCE may have.

    Before it starts the runtime, it lowers the limit of processes to pid_max, so no more than that either.
    """
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    files = permitted_limit(resource.RLIMIT_NOFILE, 1 << 20)
    processes = permitted_limit(resource.RLIMIT_NPROC, pid_max)
    return [f"nofile={files}:{files}", f"nproc={processes}:{processes}"]


def permitted_limit(kind: int, wanted: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)


def containers_env(folder: Path, *first: Path) -> dict[str, str]:
    """An environment in which podman and skopeo keep their settings and state below a folder.

    Pulls are unsigned, and plain HTTP is allowed on loopback. podman's runtime is the runc that comes
    first on the PATH. Outside the folder podman still writes its leases of addresses, in
    /run/containers/networks, and a cache in /var/lib/containers/cache.
    """
    config = folder / ".config/containers"
    config.mkdir(parents=True, exist_ok=True)
    env = {
        **peer_path_env(*first),
        "HOME": os.fspath(folder),
        "CONTAINERS_CONF": os.fspath(config / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": os.fspath(config / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": os.fspath(config / "registries.conf"),
    }
    if is_wrapped("podman"):
        # conmon starts podman once more at a container's end, past the wrapper that sets this.
        env["LD_LIBRARY_PATH"] = os.fspath(PEERS / "lib")
    (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    (config / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
    (config / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/storage"\n'
    )
    (config / "containers.conf").write_text(podman_settings(folder, env))
    return env


def podman_settings(folder: Path, env: Mapping[str, str]) -> str:
    """containers.conf. conmon gets the whole environment: podman would hand on none of it."""
    runtime = shutil.which("runc", path=env["PATH"])
    return f"""\
[containers]
default_ulimits = {json.dumps(permitted_limits())}

[engine]
cgroup_manager = "cgroupfs"
conmon_env_vars = {json.dumps([f"{name}={value}" for name, value in env.items()])}
conmon_path = ["{PEERS}/bin/conmon"]
events_logger = "file"
helper_binaries_dir = ["{PEERS}/bin"]
runtime = "runc"
tmp_dir = "{folder}/tmp"

[engine.runtimes]
runc = ["{runtime}"]

[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
