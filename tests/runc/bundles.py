"""Bundles with busybox in them, and a runtime to run them with: ours, or the real runc beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.pace import SLOWNESS
from support.peers import peer
from support.process import wait_until

CONTROLLERS: Final = Path("/sys/fs/cgroup")
SECONDS: Final = 30.0 * SLOWNESS

APPLETS: Final = (
    "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mount", "pwd",
    "readlink", "sh", "sleep", "stat", "stty", "sync", "tail", "test", "touch", "true", "tty", "umount", "wc",
)  # fmt: skip

CAPABILITIES: Final = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]

Config = dict[str, Any]


def make_rootfs(path: Path) -> Path:
    """A root directory with busybox and its applets."""
    (path / "bin").mkdir(parents=True)
    shutil.copy(peer("busybox").resolve(), path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    return path


def default_config(rootfs: Path) -> Config:
    """A configuration that both runtimes and this machine take: no rlimits, no limits."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: [*CAPABILITIES] for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": os.fspath(rootfs), "readonly": True},
        "hostname": "bundle",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/no-such-file"],
            "readonlyPaths": ["/proc/sys", "/proc/no-such-directory"],
        },
    }


@dataclass
class Result:
    """What a call of the runtime said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of the last error line on stderr, as it was before it was quoted."""
        lines = [line for line in self.err.splitlines() if "level=error" in line]
        if not lines:
            return ""
        quoted = lines[-1].partition("msg=")[2]
        return str(json.loads(quoted)) if quoted.startswith('"') else quoted


@dataclass
class Runtime:
    """A runtime with a state root of its own."""

    program: Path
    root: Path
    made: list[str] = field(default_factory=list)
    prefix: Sequence[str] = ()  # what runs it: as whom, where

    @property
    def ours(self) -> bool:
        return self.program.name == "cutaway-runc"

    def __call__(
        self,
        *words: str | os.PathLike[str],
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> Result:
        """Run a command to its end."""
        command = [*self.prefix, self.program, "--root", self.root, *options, *words]
        done = subprocess.run(
            command,
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, **env} if env else None,
            pass_fds=pass_fds,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def command(self, *words: str | os.PathLike[str]) -> list[str]:
        """The command line, for tests that talk to it while it runs."""
        return [os.fspath(word) for word in (*self.prefix, self.program, "--root", self.root, *words)]

    def detached(self, *words: str | os.PathLike[str]) -> Result:
        """Run a command that leaves a container behind: its output must not be a pipe of ours."""
        errors = self.root / "stderr"
        with errors.open("w") as err:
            done = subprocess.run(
                self.command(*words),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                timeout=SECONDS,
            )
        text = errors.read_text()
        errors.unlink()
        return Result(done.returncode, "", text)

    def state(self, name: str) -> dict[str, Any]:
        result = self("state", name)
        assert result.code == 0, result.err
        found: dict[str, Any] = json.loads(result.out)
        return found

    def status(self, name: str) -> str:
        return str(self.state(name)["status"])

    def wait_for(self, name: str, status: str) -> None:
        wait_until(lambda: self.status(name) == status, f"{name} is {status}")

    def clean(self) -> None:
        """Delete every container that a test has left."""
        for name in self("list", "--quiet").out.split():
            self("delete", "--force", name)


class Bundle:
    """A bundle: change `config`, then hand the bundle's path to a runtime."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = make_rootfs(path / "rootfs")
        self.config = default_config(self.rootfs)

    def __fspath__(self) -> str:
        """The bundle as a word of a command line; its config.json is written by that."""
        self.write()
        return os.fspath(self.path)

    def write(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config))

    @property
    def process(self) -> Config:
        found: Config = self.config["process"]
        return found

    @property
    def linux(self) -> Config:
        found: Config = self.config["linux"]
        return found

    def shell(self, script: str) -> Bundle:
        """Have the shell run a script."""
        self.process["args"] = ["sh", "-c", script]
        return self

    def mount(self, destination: str, kind: str, source: str, *options: str) -> Bundle:
        self.config["mounts"].append(
            {"destination": destination, "type": kind, "source": source, "options": list(options)}
        )
        return self

    def namespace(self, kind: str, path: str | None = None) -> Bundle:
        """Add a namespace, or give the one there is a path."""
        entries = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]
        self.linux["namespaces"] = [*entries, {"type": kind, **({"path": path} if path else {})}]
        return self


def cgroups_named(name: str) -> list[Path]:
    """The cgroups of a container, in every hierarchy."""
    found = (Path(top) / each for top, names, _ in os.walk(CONTROLLERS) for each in names)
    return [path for path in found if path.name == name]
