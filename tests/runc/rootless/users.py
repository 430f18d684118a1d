"""An ordinary user: what the machine's files say of it is seen in a mount namespace of its own alone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from support.peers import PEERS, PROJECT, SYSTEM_PATH, lack, peer

ID: Final = 1234
NAME: Final = "joe"
SUBORDINATE: Final = 100_000  # the first of this user's subordinate ids
COUNT: Final = 65_536

# What the user needs to read besides what everybody can: the interpreter, Cutaway, the peers.
NEEDED: Final = (Path(sys.base_prefix), PROJECT, PEERS.resolve())


class User:
    """The user, with a home, a runtime directory, and newuidmap and newgidmap on the PATH."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "home"
        self.runtime_dir = place / "xdg"
        self.helpers = place / "helpers"
        self.locked = place / "locked"  # a mount that is nosuid and nodev
        for directory in (self.home, self.runtime_dir):
            directory.mkdir(mode=0o700)
            os.chown(directory, ID, ID)
        self._copy_helpers()
        self._write_etc()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", self._script()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            lack("needs overlayfs for a user's view of /etc")

    def _copy_helpers(self) -> None:
        """Unpacking has lost their setuid bits."""
        if os.statvfs(self.place).f_flag & os.ST_NOSUID:
            lack("needs a /tmp that is not nosuid")
        self.helpers.mkdir()
        for name in ("newuidmap", "newgidmap"):
            shutil.copy(peer(name).resolve(), self.helpers / name)
            (self.helpers / name).chmod(0o4755)

    def _write_etc(self) -> None:
        etc = self.place / "etc"
        etc.mkdir()
        account = {"passwd": f"{NAME}:x:{ID}:{ID}::{self.home}:/bin/sh", "group": f"{NAME}:x:{ID}:"}
        for name, line in account.items():
            (etc / name).write_text(Path("/etc", name).read_text() + line + "\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text(f"{NAME}:{SUBORDINATE}:{COUNT}\n")

    def _script(self) -> str:
        """Show /etc and, if they are behind a closed directory, the needed trees."""
        lines = [
            f"mount -t overlay overlay -o lowerdir={self.place}/etc:/etc /etc",
            f"mkdir {self.locked}",
            f"mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs {self.locked}",
        ]
        closed = {path: gate for path in NEEDED if (gate := first_closed(path)) is not None}
        for number, path in enumerate(closed):
            aside = f"{self.place}/aside{number}"
            lines.append(f"mkdir -p {aside} && mount --bind {path} {aside}")
        gates = sorted(set(closed.values()))
        lines += [f"mount -t tmpfs -o mode=755 tmpfs {gate}" for gate in gates]
        for number, path in enumerate(closed):
            lines.append(f"mkdir -p {path} && mount --move {self.place}/aside{number} {path}")
        return "\n".join([*lines, "echo ready", "exec cat"])

    def close(self) -> None:
        """Let go of the mount namespace."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(30)
        self._holder.stdout.close()

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The user's environment; None removes."""
        found: dict[str, str | None] = {
            "PATH": os.pathsep.join([os.fspath(self.helpers), *SYSTEM_PATH]),
            "HOME": os.fspath(self.home),
            "XDG_RUNTIME_DIR": os.fspath(self.runtime_dir),
            "PYTHONDONTWRITEBYTECODE": "1",
            **changes,
        }
        return {name: value for name, value in found.items() if value is not None}

    def prefix(self, **changes: str | None) -> list[str]:
        """What to put before a command to run it as the user, with nothing of our environment."""
        env = [f"{name}={value}" for name, value in self.environment(**changes).items()]
        who = [f"--reuid={ID}", f"--regid={ID}", "--clear-groups", "--inh-caps=-all"]
        enter = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        return [*enter, "setpriv", *who, "--", "env", "-i", *env]

    def run(
        self, *command: str | os.PathLike[str], **changes: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user."""
        return subprocess.run(
            [*self.prefix(**changes), *(os.fspath(word) for word in command)],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
        )

    def own(self, path: Path) -> None:
        """Give the user a tree."""
        for top, directories, names in os.walk(path):
            os.chown(top, ID, ID)
            for name in (*directories, *names):
                os.chown(os.path.join(top, name), ID, ID, follow_symlinks=False)


def first_closed(path: Path) -> Path | None:
    """The first directory on the way to a path that others cannot pass."""
    for directory in reversed((path, *path.parents)):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None
