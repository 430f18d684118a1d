"""Intel RDT: shares of cache and memory bandwidth, by groups of the `resctrl` file system.

Source: Linux Documentation/arch/x86/resctrl.rst. Mounting it is the administrator's affair.
"""

import os

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux import libc, paths, smallfile

MOUNT = "/sys/fs/resctrl"
_MAGIC = 0x7655821


def find() -> str:
    """Where resctrl is mounted; empty where it is not, or there is no such hardware."""
    try:
        fd = os.open(MOUNT, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if paths.filesystem(fd) == _MAGIC:
            return MOUNT
    finally:
        os.close(fd)
    for line in smallfile.read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(b" - ")
        if after.startswith(b"resctrl "):
            return os.fsdecode(before.split()[4])
    return ""


def has(root: str, resource: str) -> bool:
    """Whether a resource (L3, MB, L3_MON) is controlled here."""
    return os.path.isdir(os.path.join(root, "info", resource))


class Group:
    """A class of service, and perhaps a group in it that is watched apart; one container's."""

    def __init__(self, root: str, container_id: str, clos_id: str = "", monitored: bool = False) -> None:
        self.root = root
        self.own = not clos_id  # named after the container: made with it, and removed with it
        self.path = os.path.normpath(os.path.join(root, (clos_id or container_id).lstrip("/")))
        self.monitor = os.path.join(self.path, "mon_groups", container_id) if monitored else ""
        self.made: list[str] = []

    def temporary(self) -> list[str]:
        """The directories that end with the container, in the order of their removal."""
        monitor = [self.monitor] if self.monitor else []
        return [*monitor, *([self.path] if self.own and not os.path.isdir(self.path) else [])]

    def make(self, schemata: list[str]) -> None:
        """Create what is missing and write the shares, in order.

        One that is there already and has other shares is not this container's to change. Raises
        `InvalidArgument` for that, `FailedPrecondition` for what the kernel refuses, in its own words.
        """
        if not os.path.isdir(self.path):
            if not self.own and not schemata:
                raise InvalidArgument(
                    "clos dir not accessible (must be pre-created when schemata, l3CacheSchema and "
                    f"memBwSchema are empty): stat {self.path}: no such file or directory"
                )
            self._mkdir(self.path)
        elif not self.own:
            self._compare(schemata)
        if schemata:
            self._write(self.path, "schemata", "".join(f"{line}\n" for line in schemata))
        if self.monitor and not os.path.isdir(self.monitor):
            self._mkdir(self.monitor)

    def enter(self, pid: int) -> None:
        """Move a process, and what it forks, there. Raises `FailedPrecondition`."""
        for path in (self.path, self.monitor):
            if path:
                self._write(path, "tasks", str(pid))

    def _compare(self, schemata: list[str]) -> None:
        found = {line.resource: line for line in _lines(self._read("schemata"))}
        for wanted in _lines("\n".join(schemata)):
            there = found.get(wanted.resource)
            if there is not None and not wanted.shares.items() <= there.shares.items():
                raise InvalidArgument(
                    f"intelRdt: {self.path} has {there.text}, which does not match {wanted.text}"
                )

    def _mkdir(self, path: str) -> None:
        try:
            os.mkdir(path, 0o755)
        except OSError as error:
            raise self._refused(f"mkdir {path}", error) from None
        self.made.insert(0, path)

    def _read(self, name: str) -> str:
        return smallfile.read(os.path.join(self.path, name)).decode()

    def _write(self, directory: str, name: str, text: str) -> None:
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise self._refused(f"unable to write {text!r} to {path}", error) from None

    def _refused(self, what: str, error: OSError) -> FailedPrecondition:
        text = f"intelrdt: {what}: {libc.words(error.errno or 0)}"
        try:
            status = smallfile.read(os.path.join(self.root, "info/last_cmd_status")).decode().strip()
        except OSError:
            status = ""
        return FailedPrecondition(f"{text}, last_cmd_status: {status}" if status else text)


def remove(directories: list[str]) -> None:
    """Remove groups; one that is gone is no error. The kernel moves who is in there. Raises OSError."""
    for path in directories:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue


class _Line:
    """One line of `schemata`: a resource's share by domain, as numbers that can be compared."""

    __slots__ = ("resource", "shares", "text")

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        resource, _, rest = self.text.partition(":")
        self.resource = resource.strip()
        self.shares: dict[str, str] = {}
        for part in rest.split(";"):
            domain, _, share = part.partition("=")
            # masks are written with leading zeros, percentages with leading blanks
            self.shares[domain.strip().lstrip("0")] = share.strip().lower().removeprefix("0x").lstrip("0")


def _lines(text: str) -> list[_Line]:
    return [_Line(line) for line in text.splitlines() if ":" in line]
